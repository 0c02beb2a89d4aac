import type { Deliver, Delivery, DeliveryEnd, StoredTask, TaskBackend, TaskInfo, TaskList } from '../../types/backend'

/** A task as a backend is given it, with nothing of its own but what the test says. */
export const storedTask = (task: Partial<StoredTask> & { name: string }): StoredTask => ({
  id: '11111111-2222-4333-8444-555555555555',
  label: task.name,
  payload: null,
  requestId: null,
  attempts: 1,
  backoff: null,
  delay: 0,
  timeout: 0,
  dedupe: null,
  carrier: null,
  ...task
})

/** Has a backend hand out tasks, none of which needs a thread. */
export function work (backend: TaskBackend, concurrency: number, deliver: Deliver): Promise<void> {
  return backend.work(concurrency, deliver, { names: new Set(), free: () => 0 })
}

/** A backend whose server is the test. */
export class StubBackend implements TaskBackend {
  readonly name = 'stub'
  writes = 1
  keepsWaiting?: string
  /** The tasks of each call of `store`. */
  readonly written: StoredTask[][] = []
  readonly cancelled: string[] = []
  readonly infos = new Map<string, TaskInfo>()
  closes = 0
  pauses = 0
  concurrency = 0
  #deliver: Deliver | null = null

  /** Replaced by a test that wants another end. */
  onStart: () => Promise<void> = async () => {}
  onStore: (tasks: StoredTask[]) => Promise<string[]> = async tasks => tasks.map(({ id }) => id)
  onBatch: (batch: StoredTask[]) => Error | null = () => null
  onWork: () => Promise<void> = async () => {}
  onPause: () => Promise<void> = async () => {}
  onFind: (id: string) => Promise<TaskInfo | null> = async id => this.infos.get(id) ?? null
  onCancel: (id: string) => Promise<boolean> = async () => true
  onClose: () => Promise<void> = async () => {}

  start (): Promise<void> { return this.onStart() }

  async store (batches: StoredTask[][]): Promise<Array<string[] | Error>> {
    const tasks = batches.flat()
    this.written.push(tasks)
    const ids = await this.onStore(tasks)
    let from = 0
    return batches.map(({ length }) => ids.slice(from, (from += length))).map((ids, index) => this.onBatch(batches[index]!) ?? ids)
  }

  async work (concurrency: number, deliver: Deliver): Promise<void> {
    this.concurrency = concurrency
    this.#deliver = deliver
    await this.onWork()
  }

  pause (): Promise<void> {
    this.pauses++
    return this.onPause()
  }

  find (id: string): Promise<TaskInfo | null> { return this.onFind(id) }

  cancel (id: string): Promise<boolean> {
    this.cancelled.push(id)
    return this.onCancel(id)
  }

  /** Set by a test whose backend can. */
  list?: (limit: number) => Promise<TaskList>
  retry?: (id: string) => Promise<boolean>

  close (): Promise<void> {
    this.closes++
    return this.onClose()
  }

  /** Hands a task to the application, as its worker would. */
  deliver (task: Partial<StoredTask> & { name: string }, delivery: Partial<Delivery> = {}): Promise<DeliveryEnd> {
    return this.#deliver!({
      task: storedTask(task),
      attempt: 1,
      signal: new AbortController().signal,
      progress: () => {},
      ...delivery
    })
  }

  /** The payloads of all that was written. */
  get payloads (): unknown[] {
    return this.written.flat().map(({ payload }) => payload === null ? undefined : JSON.parse(payload))
  }
}

/** One that finds what it was given, unless that was cancelled. */
export class FindingBackend extends StubBackend {
  override find (id: string) {
    const task = this.written.flat().find(task => task.id === id)
    const found = task !== undefined && !this.cancelled.includes(id)
    return Promise.resolve(found ? { id, name: task.name, state: 'pending' as const, attempts: 0, progress: undefined, result: undefined, error: undefined } : null)
  }
}
