import type { FastifyBaseLogger } from 'fastify'
import type { Deliver, Delivery } from './backends/backend'
import { definitionOf, type Definition } from './define-task'
import { FST_BGT_CANCELLED, FST_BGT_UNKNOWN_TASK } from './errors'
import { Line } from './line'
import { received } from './received'
import type { Runtime } from './runtime'
import { Task } from './task'

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
    const { requestId } = this
    this.#log ??= requestId === null ? this.runtime.log : this.runtime.log.child({ reqId: requestId })
    return this.#log
  }

  override progress (value: unknown): void {
    this.#delivery.progress(value)
  }

  override givesBack (): boolean {
    return true
  }
}

/** Lets a backend have its tasks run here, by the same runner as all others. */
export function deliverTo (runtime: Runtime): Deliver {
  return async function deliver (delivery) {
    const { id, name, label, payload, timeout, attempts } = delivery.task
    const task = runtime.options.tasks.get(name)
    if (task === undefined) throw new FST_BGT_UNKNOWN_TASK(name, received([...runtime.options.tasks.keys()]))
    const { spec } = definitionOf(task) as Definition
    const line = new DeliveryLine(runtime, delivery)
    const run = new Task(line, task, [payload ?? undefined], { ...spec, name: label, timeout, attempts, delay: 0 })
    const { extra } = run
    extra.id = id
    extra.attempts = delivery.attempt - 1
    runtime.ledger.accept(run, line)
    const cancel = () => { run.cancel() }
    delivery.signal.addEventListener('abort', cancel, { once: true })
    line.join(run)
    runtime.runner.enqueue(line)
    const state = await run.settled()
    delivery.signal.removeEventListener('abort', cancel)
    if (state === 'completed') return extra.result
    throw extra.error ?? new FST_BGT_CANCELLED(label)
  }
}
