import type { TaskDefinition } from '../../types/definition'
import { addChannel, publishAdd } from '../observe/channels'
import { withCarrier } from '../observe/propagation'
import type { Addition, AttemptCollector } from '../run/attempt-collector'
import type { Line } from '../run/line'
import type { HandOver } from '../store/hand-over'
import { checkFunction } from '../task/define'
import { MEANINGLESS_IN_CONTEXT, refuseMeaningless } from '../task/options'
import { SerializedPayload } from '../task/payload'
import type { Task } from '../task/task'
import { createTask } from './create-task'
import { OriginLine } from './origin-line'
import type { CollectorParts } from './parts'

/**
 * The collector of one attempt: `ctx.add`. Made at the first add, kept as long as the attempt. Tasks of this process start at once, each on a
 * line of its own. Those for the backend share a line; they are stored in the order of their adds, one write at a time.
 */
export class AttemptTasks implements AttemptCollector {
  readonly #parts: CollectorParts
  readonly #origin: Line
  readonly #durableLine: OriginLine
  /** Tasks for the next write. */
  #collected: Task[] = []
  /** Resolves when all that was added so far is stored or refused; `null` where there is nothing to wait for. */
  #storing: Promise<void> | null = null
  /** The error of the first task that was accepted, and then could not be stored; of a thread's, also of one that was not accepted. */
  #refusal: { readonly error: unknown } | null = null

  constructor (parts: CollectorParts, origin: Line) {
    this.#parts = parts
    this.#origin = origin
    this.#durableLine = new OriginLine(parts.engine, origin)
  }

  add (first: unknown, args: unknown[]): Task {
    return this.#add(first, args, null)
  }

  addForThread ({ id, task, options, payload, carrier }: Addition): void {
    const definition = this.#parts.engine.settings.tasks.get(task) as TaskDefinition
    const value = 'value' in payload ? payload.value : payload.json === undefined ? undefined : new SerializedPayload(payload.json)
    try {
      withCarrier(carrier, () => options === null ? this.#add(definition, [value], id) : this.#add(options, [definition, value], id))
    } catch (error) {
      this.#refusal = { error }
    }
  }

  /** @param id the id that a thread has given the task */
  #add (first: unknown, args: unknown[], id: string | null): Task {
    // The attempt fails in any case. Order: nothing is stored behind a task that was refused.
    if (this.#refusal !== null) throw this.#refusal.error
    const { engine, handOver } = this.#parts
    const fn = typeof first === 'function' ? first : args[0]
    const isDurable = handOver !== null && typeof fn === 'function' && checkFunction(fn)?.spec.local === false
    const line = isDurable ? this.#durableLine : new OriginLine(engine, this.#origin)
    // First of all: the making of a task moves buffers, and queues the task for a thread.
    if (fn !== first) refuseMeaningless(first, MEANINGLESS_IN_CONTEXT)
    const task = createTask(engine, line, first, args)
    engine.ledger.assertRoom()
    if (id !== null) {
      // The thread knows the id, and may have given it to somebody who asks `find`.
      task.extra.id = id
      line.remember(task)
    }
    engine.ledger.accept(task, line)
    if (addChannel.hasSubscribers) publishAdd(task, line)
    // A subscriber may have cancelled the task.
    if (task.isSettled) return task
    if (isDurable) {
      this.#collected.push(task)
      this.#storing ??= this.#store(handOver)
    } else {
      engine.join(task, line)
      engine.runner.enqueue(line)
    }
    return task
  }

  async #store (handOver: HandOver): Promise<void> {
    // The adds that follow at once share the first write.
    await null
    let tasks = this.#take()
    try {
      for (; tasks.length !== 0; tasks = this.#take()) await handOver.send(tasks, this.#durableLine)
    } catch (error) {
      this.#refusal = { error }
      for (const task of [...tasks, ...this.#take()]) this.#parts.engine.fail(task, this.#durableLine, error)
    }
    this.#storing = null
  }

  /** Takes the tasks of the next write, without those that have been cancelled. */
  #take (): Task[] {
    const tasks = this.#collected.filter(({ isSettled }) => !isSettled)
    this.#collected = []
    return tasks
  }

  stored (): Promise<void> | null {
    return this.#storing === null && this.#refusal === null ? null : this.#allStored()
  }

  async #allStored (): Promise<void> {
    await this.#storing
    if (this.#refusal !== null) throw this.#refusal.error
  }
}
