import { List } from '../shared/list'
import type { TaskSpec } from '../task/spec'
import { PENDING, RUNNING } from '../task/states'
import type { Task, TaskOwner } from '../task/task'
import { LineOrigin, type OriginEngine } from './line-origin'
import type { StoppableAttempt } from './stoppable-attempt'

/** The engine, as its lines see it. */
export interface LineEngine extends OriginEngine {
  readonly ledger: { readonly index: { add (task: Task): void } }
  cancel (task: Task, line: Line): boolean
}

/**
 * Tasks that run one after the other, in the order of their `add`: those of a request, or a single one of the application or of a
 * delivery. Data only: the engine moves the tasks, and lines do not wait for each other.
 */
export class Line extends LineOrigin<LineEngine> implements TaskOwner {
  /** Tasks that may run. Settled ones among them are passed over. */
  readonly tasksInLine = new List<Task>()
  /** The running task, which the next one waits for. */
  current: Task | null = null
  /** The attempt of {@link current}, if it can be stopped. */
  attempt: StoppableAttempt | null = null
  /** With `onFailure: 'stop'`, the task whose next attempt the whole line waits for. */
  held: Task | null = null
  /** Tasks that wait for a timer, outside the list. */
  waiting: Set<Task> | null = null
  /** The task on its way to the backend by a connection of the user's. */
  storing: Task | null = null
  /** Accepted tasks without a final state. */
  unsettled = 0
  /** Functions that still run although their task has been abandoned. */
  abandoned = 0
  /** The runner's queue of lines that have something to run. */
  queued = false
  next: Line | null = null
  /** The ledger's list of open lines. */
  open = false
  previousOpen: Line | null = null
  nextOpen: Line | null = null
  /** Callbacks for the promise of a plain function, made once for each line. */
  onFulfilled: ((value: unknown) => void) | null = null
  onRejected: ((error: unknown) => void) | null = null

  /** The task that a new one with these options would replace. */
  replacedBy (_spec: TaskSpec): Task | null {
    return null
  }

  /** Called when all tasks have settled, and again when the last abandoned function ends. Returns whether the line can be closed. */
  onSettled (): boolean {
    return true
  }

  cancel (task: Task): boolean {
    return this.engine.cancel(task, this)
  }

  remember (task: Task): void {
    this.engine.ledger.index.add(task)
  }

  /** Whether the runner may start a task of this line. */
  get ready (): boolean {
    return this.tasksInLine.first !== null && this.current === null && this.held === null
  }

  /** Takes the next task that is still to run. */
  shift (): Task | null {
    let task = this.tasksInLine.shift()
    while (task !== null && task.status !== PENDING) task = this.tasksInLine.shift()
    return task
  }

  /** Every task without a final state: running, in line, waiting for a timer, being stored in a transaction. */
  * tasks (): Generator<Task> {
    if (this.current?.status === RUNNING) yield this.current
    for (let task = this.tasksInLine.first; task !== null; task = task.next) {
      if (task.status === PENDING) yield task
    }
    if (this.waiting !== null) yield * this.waiting
    if (this.storing?.status === PENDING) yield this.storing
  }
}
