import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { subscribe } from 'node:diagnostics_channel'
import backgroundTasks, { defineTask, UnrecoverableError, type AppBackgroundTasks, type BackgroundTasks, type TaskContext, type TaskDefinition, type TaskHandle, type TaskOptions } from '../../index'
import type { Deliver, StoredTask, TaskBackend, TaskInfo, ThreadRoom } from '../../types/backend'
import { DurableModel, ProcessRecord, RequestRecord, type AttemptRecord, type TaskRecord } from './durable-model'
import { STORE_TIMEOUT, type CancelFault, type DeliveryFault, type DurableProgram, type Event, type ProcessProgram, type RequestProgram, type ScheduleProgram, type Step, type StoreFault, type TaskProgram } from './durable-program'
import { forgetTimers, pass, quiet, wait } from './virtual-time'

/** A store that several processes share. */
export interface SharedStore {
  /** Whether a task runs alone after the death of its worker. */
  readonly isolates: boolean
  readonly schedules: boolean
  connect (): TaskBackend
  /** Removes what is left. */
  end (): void
}

/** Makes the store of one program. */
export type MakeStore = (program: DurableProgram, onDelivery: (id: string) => DeliveryFault, onLost: (id: string) => void) => SharedStore

/** The task of the schedule. */
const TICK = 'tick'

/** Steps of virtual time; no program takes as many. */
const MAX_STEPS = 3_000

/** An answer that does not come. Each is new: one for all would keep all who wait. */
function never (): Promise<never> {
  return new Promise(() => {})
}

class ExpectedError extends Error {}

/** The handles that have settled in this program. */
let settledHandles = new Set<unknown>()
let settledTwice: string | null = null
subscribe('fastify-background-tasks.settle', message => {
  const { task, name } = message as { task: TaskHandle, name: string }
  if (settledHandles.has(task)) settledTwice = name
  settledHandles.add(task)
})

type Door = Pick<AppBackgroundTasks, 'add' | 'flush'> & Partial<Pick<BackgroundTasks, 'release'>>

/** An application, in place of a process: it can die. */
interface Process extends ProcessRecord {
  app: FastifyInstance
  connection: Connection
  work: TaskDefinition<{ number: number }, unknown>
}

/** The connection of one process to the store: its answers may fail, and it may end without a word. */
class Connection implements TaskBackend {
  readonly name = 'the store'
  readonly #run: DurableRun
  readonly #process: ProcessRecord
  readonly #inner: TaskBackend
  schedule?: NonNullable<TaskBackend['schedule']>
  schedules?: NonNullable<TaskBackend['schedules']>

  constructor (run: DurableRun, process: ProcessRecord, inner: TaskBackend) {
    this.#run = run
    this.#process = process
    this.#inner = inner
    if (inner.schedule === undefined) return
    this.schedule = (...args) => inner.schedule!(...args)
    this.schedules = ids => inner.schedules!(ids)
  }

  get writes (): number {
    return this.#inner.writes
  }

  start (...args: Parameters<TaskBackend['start']>): Promise<void> {
    return this.#inner.start(...args)
  }

  /** Ends as the connection of a process that is killed: what it has taken stays taken. */
  die (): void {
    this.#inner.close(0).catch(() => {})
  }

  async #answer<T> (answer: T | Promise<T>): Promise<T> {
    const value = await answer
    return this.#process.state === 'dead' ? never() : value
  }

  async store (batches: StoredTask[][]): Promise<Array<string[] | Error>> {
    if (this.#process.isOver) return never()
    const fault = this.#run.nextStoreFault()
    this.#run.model.written(this.#process, batches, fault)
    if (fault !== 'none' && fault !== 'slow' && fault !== 'twice') this.#blame(fault === 'one refused' ? batches[0]! : batches.flat(), fault)
    switch (fault) {
      case 'none': return this.#answer(this.#store(batches))
      case 'refused': throw new ExpectedError('refused')
      case 'one refused': return this.#answer([new ExpectedError('refused'), ...batches.length === 1 ? [] : await this.#store(batches.slice(1))])
      case 'question lost': return never()
      case 'answer lost': return this.#store(batches).then(never)
      case 'question late': return wait(1.5 * STORE_TIMEOUT).then(() => this.#process.isOver ? never() : this.#answer(this.#store(batches)))
      case 'answer late': return this.#answer(this.#store(batches).then(async answer => wait(1.5 * STORE_TIMEOUT).then(() => answer)))
      case 'slow': return wait(310).then(() => this.#process.isOver ? never() : this.#answer(this.#store(batches)))
      case 'broken': return this.#answer(this.#store(batches)).then(() => { throw new ExpectedError('connection lost') })
      case 'twice': return this.#store(batches).then(() => this.#answer(this.#store(batches)))
    }
  }

  #blame (tasks: StoredTask[], fault: StoreFault): void {
    for (const { id, dedupe } of tasks) {
      const task = this.#run.model.byId(id)
      task.faulted = true
      if ((fault === 'question late' || fault === 'answer late') && dedupe === null) task.latecomer = true
    }
  }

  async #store (batches: StoredTask[][]): Promise<Array<string[] | Error>> {
    const results = await this.#inner.store(batches)
    results.forEach((ids, index) => { if (!(ids instanceof Error)) this.#run.model.arrived(batches[index]!, ids) })
    return results
  }

  async work (concurrency: number, deliver: Deliver, threads: ThreadRoom): Promise<void> {
    const { model } = this.#run
    return this.#inner.work(concurrency, async delivery => {
      if (this.#process.state === 'dead') return never()
      if (delivery.task.name === TICK) {
        this.#process.deliveries++
        this.#process.completed++
        model.expect(!this.#process.isOver, 'End: a run is handed to a process that is over')
        return this.#answer(deliver(delivery))
      }
      const record = model.handedOut(this.#process, delivery)
      const end = await this.#answer(deliver(delivery))
      model.told(record, end.state)
      return end
    }, threads)
  }

  async pause (): Promise<void> {
    return this.#answer(this.#inner.pause())
  }

  async find (id: string): Promise<TaskInfo | null> {
    return this.#process.isOver ? never() : this.#answer(this.#inner.find(id))
  }

  /** As `find`, whatever has become of the process. */
  look (id: string): Promise<TaskInfo | null> {
    return this.#inner.find(id)
  }

  /** When the runs of the schedule were stored, in ms. */
  async scheduledAt (): Promise<number[]> {
    const { tasks } = await this.#inner.list!(1_000)
    const completed = await this.#inner.page!('completed', 0, 1_000, false)
    const records = await Promise.all([...tasks, ...completed].filter(({ name }) => name === TICK).map(({ id }) => this.#inner.read!(id)))
    return records.map(record => record!.added!)
  }

  async cancel (id: string): Promise<boolean> {
    if (this.#process.isOver) return never()
    const task = this.#run.model.byId(id)
    task.cancelCalled = true
    // Refused, for it had waited too long for the write before, and stored nevertheless.
    if ((task.state === 'failed' || task.state === 'dropped') && this.#process.faulted && task.program.dedupe === null) task.latecomer = true
    const fault = this.#run.nextCancelFault()
    if (fault === 'refused') throw new ExpectedError('refused')
    if (fault === 'lost') return never()
    if (fault === 'slow') await wait(310)
    if (this.#process.isOver) return never()
    const isCancelled = await this.#inner.cancel(id)
    if (isCancelled) this.#run.model.cancelledInStore(id)
    return this.#answer(isCancelled)
  }

  async close (ms: number): Promise<void> {
    return this.#process.state === 'dead' ? never() : this.#inner.close(ms)
  }
}

/** Runs one program. */
export class DurableRun {
  readonly model: DurableModel
  readonly #program: DurableProgram
  readonly #store: SharedStore
  readonly #storeFaults: StoreFault[]
  readonly #cancelFaults: CancelFault[]
  readonly #deliveryFaults: DeliveryFault[]
  readonly #processes: Process[] = []
  #events: string[] = []

  constructor (program: DurableProgram, makeStore: MakeStore) {
    this.#program = program
    this.#storeFaults = [...program.storeFaults]
    this.#cancelFaults = [...program.cancelFaults]
    this.#deliveryFaults = [...program.deliveryFaults]
    this.#store = makeStore(program, () => this.#deliveryFaults.shift() ?? 'none', id => this.model.lost(id))
    this.model = new DurableModel(this.#store.isolates, process => (process as Process).app.backgroundTasks.stats())
  }

  nextStoreFault (): StoreFault {
    return this.#storeFaults.shift() ?? 'none'
  }

  nextCancelFault (): CancelFault {
    return this.#cancelFaults.shift() ?? 'none'
  }

  get #schedule (): ScheduleProgram | null {
    return this.#store.schedules ? this.#program.schedule : null
  }

  /** @returns how many tasks there were */
  async execute (): Promise<number> {
    settledHandles = new Set()
    settledTwice = null
    try {
      await this.#drive(this.#execute())
      return this.model.tasks.length
    } finally {
      for (const process of this.#processes) if (!process.isOver) this.#kill(process)
      await quiet()
      forgetTimers()
      await quiet()
      this.#store.end()
    }
  }

  /** Lets time pass until the program is over, or a law is broken. */
  async #drive (program: Promise<void>): Promise<void> {
    const { model } = this
    const end: { isOver: boolean, error?: unknown } = { isOver: false }
    program.catch(error => { end.error = error }).finally(() => { end.isOver = true })
    for (let step = 0; !end.isOver; step++) {
      await quiet()
      if (settledTwice !== null) model.expect(false, `End: a task '${settledTwice}' settled twice`)
      model.look()
      if (step === MAX_STEPS) model.expect(false, `the program does not end (${this.#events.at(-1)})`, ...model.tasks)
      if (model.violations.length !== 0) throw new Error(model.violations.slice(0, 3).join('\n'))
      if (!end.isOver) pass()
    }
    if ('error' in end) throw end.error
  }

  async #execute (): Promise<void> {
    const { model } = this
    for (const program of this.#program.processes) await this.#start(program)
    for (const event of this.#program.events) await this.#event(event)
    this.#events.push('what was begun')
    while (this.#processes.some(({ state }) => state === 'closing')) await wait(50)
    do {
      while (!model.isOver) {
        await this.#keepOpen()
        await wait(50)
      }
      // For what is still to come: a late answer, or a task that should not run.
      await wait(2 * STORE_TIMEOUT)
    } while (!model.isOver)
    await this.#keepOpen()
    const { connection } = this.#processes.find(({ state }) => state === 'open') as Process
    for (const task of model.tasks) {
      if (!task.refused) model.end(task, task.program.plain ? null : await connection.look(task.handle!.id))
    }
    if (this.#schedule !== null) model.scheduled(this.#schedule, await connection.scheduledAt())
    this.#events.push('the last closes')
    await Promise.all(this.#processes.map(process => this.#close(process)))
  }

  /** Starts a process that works, where there is none. */
  async #keepOpen (): Promise<void> {
    if (!this.#processes.some(({ state, program }) => state === 'open' && program.concurrency !== 0)) await this.#start({ concurrency: 2, closeTimeout: 1_000 })
  }

  async #event (event: Event): Promise<void> {
    this.#events.push(JSON.stringify(event))
    const open = this.#processes.filter(({ state }) => state === 'open')
    if (event.do === 'wait') return wait(event.ms)
    if (event.do === 'start') return this.#start(event.program)
    if (event.do === 'cancel') return this.#cancel(event.back)
    const process = open[event.process % open.length]
    if (process === undefined) return
    if (event.do === 'request') this.#request(process, event.request)
    else if (event.do === 'add') this.#add(event.task, process, null, process.app.backgroundTasks)
    else if (event.do === 'close') this.#close(process)
    else this.#kill(process)
  }

  async #start (program: ProcessProgram): Promise<void> {
    const process = new ProcessRecord(this.#processes.length, program) as Process
    const app = process.app = Fastify({ exposeHeadRoutes: false, logger: { level: 'error', stream: { write: () => {} } } }) as unknown as FastifyInstance
    const connection = process.connection = new Connection(this, process, this.#store.connect())
    process.work = defineTask('work', ({ number }: { number: number }, ctx) => this.#work(process, number, ctx.attempt, ctx.signal, ctx))
    const tick = defineTask(TICK, async () => {})
    await app.register(backgroundTasks, {
      tasks: [process.work, tick],
      ...this.#schedule !== null && { schedules: { s: { task: tick, ...this.#schedule } } },
      backend: connection,
      worker: program.concurrency !== 0 && { concurrency: program.concurrency },
      closeTimeout: program.closeTimeout,
      storeTimeout: STORE_TIMEOUT
    })
    app.addHook('onError', (request, _reply, error, done) => {
      this.#recordOf(request).error ??= error
      done()
    })
    app.setErrorHandler(async (error: Error & { statusCode?: number }, request, reply) => {
      const record = this.#recordOf(request)
      await this.#perform(record.program.error, record, request.backgroundTasks).catch(() => {})
      return reply.code(error.statusCode ?? 500).send('failed')
    })
    app.get('/:index', (request, reply) => this.#handle(request, reply))
    await app.ready()
    process.begun = Date.now()
    this.#processes.push(process)
    this.model.processes.push(process)
  }

  #recordOf (request: FastifyRequest): RequestRecord {
    return this.model.requests[Number((request.params as { index: string }).index)] as RequestRecord
  }

  async #request (process: Process, program: RequestProgram): Promise<void> {
    const record = new RequestRecord(this.model.requests.length, process, program)
    this.model.requests.push(record)
    const leaving = new AbortController()
    if (program.leaves !== null) setTimeout(() => leaving.abort(), program.leaves)
    try {
      const { statusCode } = await process.app.inject({ url: `/${record.index}`, signal: leaving.signal })
      if (process.state !== 'dead') this.model.replied(record, statusCode)
    } catch (error) {
      record.left = true
      this.model.expect(leaving.signal.aborted, `request ${record.index} has failed: ${(error as Error).stack}`)
    }
    while (record.left && record.handlerEnded === null) await wait(50)
    record.over = true
  }

  async #handle (request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    const record = this.#recordOf(request)
    try {
      await this.#perform(record.program.steps, record, request.backgroundTasks)
    } finally {
      record.handlerEnded = Date.now()
    }
    if (record.program.end === 'throw') throw new ExpectedError('thrown')
    if (record.program.end === 'return 404') reply.code(404)
    return 'done'
  }

  async #perform (steps: Step[], record: RequestRecord, door: Door): Promise<void> {
    const { model } = this
    const process = record.process as Process
    for (const step of steps) {
      if (process.state === 'dead') return never()
      if (step.do === 'wait') await wait(step.ms)
      else if (step.do === 'add') this.#add(step.task, process, record, door)
      else if (step.do === 'cancel') this.#cancel(step.back)
      else if (step.do === 'release') {
        model.releasing(record, true)
        door.release!()
      } else {
        const tasks = model.releasing(record, false)
        try {
          await door.flush()
          if (!process.isOver) model.flushed(tasks)
        } catch (error) {
          model.expect(process.faulted || process.isOver, `Refused: flush() rejected without a fault: ${(error as Error).stack}`)
          if (!step.catches) throw error
        }
      }
    }
    if (process.state === 'dead') return never()
  }

  #add (program: TaskProgram, process: Process, request: RequestRecord | null, door: Door): TaskRecord {
    const { runOn, key } = program
    return this.#addTo(door, program, process, request, {
      runOn: runOn === 'predicate: true' ? () => true : runOn === 'predicate: false' ? () => false : runOn,
      ...key !== null && { key }
    })
  }

  #addTo (door: Pick<Door, 'add'>, program: TaskProgram, process: Process, request: RequestRecord | null, ofRequest: Pick<TaskOptions, 'runOn' | 'key'>): TaskRecord {
    const { model } = this
    const { task, isReplaced } = model.add(program, process, request)
    const { attempts, backoff, exponential, delay, timeout, dedupe } = program
    const options: Omit<TaskOptions, 'signal' | 'dedupe'> = {
      ...ofRequest,
      attempts,
      backoff: exponential ? { type: 'exponential', delay: backoff } : backoff,
      delay,
      timeout
    }
    try {
      const handle = program.plain
        ? door.add({ ...options, signal: true }, (signal: AbortSignal) => this.#work(process, task.number, task.attempts.length + 1, signal))
        : door.add({ ...options, ...dedupe !== null && { dedupe } }, process.work, { number: task.number })
      model.accepted(task, handle, isReplaced)
      if (program.watched) handle.settled().then(state => { task.settled = state })
    } catch (error) {
      model.refused(task, error as Error)
    }
    return task
  }

  /** Cancels a task, counted from the last one back. Not one of whose write nothing is known: it may still come. */
  #cancel (back: number): void {
    const task = this.model.tasks.at(-1 - back)
    if (task === undefined || task.handle === null || task.faulted || task.process.isOver) return
    const denied = this.model.cancelling(task)
    const faults = this.#cancelFaults.length
    task.handle.cancel().then(isCancelled => {
      if (task.process.state === 'dead') return
      if (isCancelled) task.cancelled ??= Date.now()
      else if (!task.process.isOver) denied()
    }, error => this.model.expect(faults !== 0 || task.process.isOver, `Cancel: ${error.stack}`, task))
  }

  async #work (process: Process, number: number, attemptNumber: number, signal: AbortSignal, ctx: TaskContext | null = null): Promise<unknown> {
    if (process.state === 'dead') return never()
    const { model } = this
    const task = model.tasks[number] as TaskRecord
    const { program } = task
    const attempt = model.begins(process, task, attemptNumber)
    const stopped = new Promise<void>(resolve => {
      signal.addEventListener('abort', () => {
        if (process.state !== 'dead') model.stops(task, attempt, (signal.reason as { code?: string } | undefined)?.code)
        if (!program.deaf) resolve()
      }, { once: true })
    })
    if (ctx !== null) attempt.added = program.next.map(next => this.#addTo(ctx as Pick<Door, 'add'>, next, process, null, {})).filter(({ refused }) => !refused)
    const kills = task.executions <= program.kills
    await (program.ms === 0 ? null : Promise.race([wait(kills ? program.ms / 2 : program.ms), stopped]))
    if (process.isOver) return never()
    if (kills && attempt.stopped === null) {
      this.#kill(process)
      return never()
    }
    return this.#end(task, attempt)
  }

  #end (task: TaskRecord, attempt: AttemptRecord): unknown {
    const { number, program } = task
    const isStopped = attempt.stopped !== null && !program.deaf
    const fails = isStopped || attempt.number <= program.failures
    const isFinal = program.unrecoverable && !isStopped
    this.model.ends(task, attempt, fails ? isFinal ? 'unrecoverable' : 'error' : 'ok')
    if (fails) throw isFinal ? new UnrecoverableError('for good') : new ExpectedError('for now')
    return { number, attempt: attempt.number }
  }

  async #close (process: Process): Promise<void> {
    if (process.state !== 'open') return
    this.model.closing(process)
    await process.app.close()
    if ((process.state as string) !== 'dead') this.model.closed(process)
  }

  #kill (process: Process): void {
    if (process.isOver) return
    this.model.killed(process)
    process.connection.die()
  }
}
