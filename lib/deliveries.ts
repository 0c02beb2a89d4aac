import type { FastifyBaseLogger } from 'fastify'
import type { Deliver, Delivery, DeliveryEnd } from './backends/backend'
import { definitionOf, type Definition } from './define-task'
import { FST_BGT_CLOSED, FST_BGT_UNKNOWN_TASK } from './errors'
import { Line } from './line'
import type { Carrier } from './propagation'
import { received } from './received'
import type { Runtime } from './runtime'
import { Task } from './task'
import { isUnrecoverable } from './unrecoverable-error'

/** Milliseconds to leave a task alone that this process does not know. */
const UNKNOWN_DELAY = 5_000

/** The line of one delivery: an attempt of a stored task, which this process has been given to run. */
class DeliveryLine extends Line {
  readonly #delivery: Delivery
  #log: FastifyBaseLogger | null = null

  constructor (runtime: Runtime, delivery: Delivery) {
    super(runtime, null)
    this.#delivery = delivery
  }

  override get requestId (): string | null {
    return this.#delivery.task.requestId
  }

  override get log (): FastifyBaseLogger {
    this.#log ??= this.runtime.logOf(this.requestId)
    return this.#log
  }

  override progress (value: unknown): void {
    this.#delivery.progress(value)
  }

  override get carrier (): Carrier | null {
    return this.#delivery.task.carrier
  }

  override get retriesElsewhere (): boolean {
    return true
  }

  /** Whatever a task fails with once its signal has aborted for the close: what waits with a signal has errors of its own. */
  override givesBack (error: unknown): boolean {
    return this.runtime.closeReason !== null && !isUnrecoverable(error)
  }
}

/** Lets a backend have its tasks run here, by the same runner as all others. */
export function deliverTo (runtime: Runtime): Deliver {
  return async function deliver (delivery): Promise<DeliveryEnd> {
    const { id, name, label, payload, timeout, attempts } = delivery.task
    const line = new DeliveryLine(runtime, delivery)
    const leave = (reason: Error, delay: number): DeliveryEnd => {
      runtime.report.leftToAnother(delivery, line, reason)
      return { state: 'not attempted', reason, delay }
    }
    // Handed out while the application was about to close: nothing would run it.
    if (runtime.closeReason !== null) return leave(new FST_BGT_CLOSED(), 0)
    const task = runtime.options.tasks.get(name)
    if (task === undefined) return leave(new FST_BGT_UNKNOWN_TASK(name, received([...runtime.options.tasks.keys()])), UNKNOWN_DELAY)
    const { spec } = definitionOf(task) as Definition
    const run = new Task(line, task, [payload ?? undefined], { ...spec, name: label, timeout, attempts, delay: 0 })
    const { extra } = run
    extra.id = id
    extra.attempts = delivery.attempt - 1
    runtime.ledger.accept(run, line)
    line.join(run)
    runtime.runner.enqueue(line)
    const settled = run.settled()
    const cancel = () => { run.cancel() }
    if (delivery.signal.aborted) cancel()
    else delivery.signal.addEventListener('abort', cancel, { once: true })
    const state = await settled
    delivery.signal.removeEventListener('abort', cancel)
    if (state === 'completed') return { state, result: extra.result }
    if (state === 'cancelled') return { state }
    if (line.givesBack(extra.error)) return leave(runtime.closeReason as unknown as Error, 0)
    return { state: 'failed', error: extra.error }
  }
}
