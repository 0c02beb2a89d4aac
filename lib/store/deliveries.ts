import type { Deliver, DeliveryEnd, ThreadRoom } from '../../types/backend'
import type { Engine } from '../run/engine'
import { Line } from '../run/line'
import { type Settings, threadedDefinitions } from '../run/settings'
import type { ThreadRunner } from '../run/thread-runner'
import { FST_BGT_CLOSED, FST_BGT_NO_HANDLER, FST_BGT_UNKNOWN_TASK } from '../shared/errors'
import { received } from '../shared/show'
import { definitionOf } from '../task/define'
import type { Definition } from '../task/spec'
import { Task } from '../task/task'

/** Time before a task that this process does not know is handed out again. */
const UNKNOWN_TASK_DELAY_MS = 5_000

/** The number of tasks of a backend that this process can run at once. */
export function placesFor (settings: Settings): number {
  const { workerConcurrency, concurrency, tasks, threads } = settings
  const places = Math.min(workerConcurrency, concurrency)
  const onThreads = threadedDefinitions(settings).length
  return onThreads !== 0 && onThreads === tasks.size ? Math.min(places, threads.max) : places
}

/** The threads as a backend sees them, so that it takes no more tasks than can begin. */
export function threadRoomOf ({ settings, threads }: Engine): ThreadRoom {
  const names = new Set(threadedDefinitions(settings).map(({ name }) => name))
  return { names, free: () => (threads as ThreadRunner).freeForBackend }
}

/** Runs a backend's tasks with the engine, as all other tasks. */
export function deliverTo (engine: Engine): Deliver {
  return async function deliver (delivery): Promise<DeliveryEnd> {
    const { id, name, label, payload, timeout, attempts } = delivery.task
    const line = new Line(engine, null, delivery)
    const returnTask = (reason: Error, delay: number): DeliveryEnd => {
      engine.report.returned(delivery, line, reason)
      return { state: 'not attempted', reason, delay }
    }
    // Handed out while the application closes: no runner is left.
    if (engine.closeReason !== null) return returnTask(new FST_BGT_CLOSED(), 0)
    const task = engine.settings.tasks.get(name)
    if (task === undefined) return returnTask(new FST_BGT_UNKNOWN_TASK(name, received([...engine.settings.tasks.keys()])), UNKNOWN_TASK_DELAY_MS)
    const { spec, elsewhere } = definitionOf(task) as Definition
    if (elsewhere) return returnTask(new FST_BGT_NO_HANDLER(name, 'it was handed to this one'), UNKNOWN_TASK_DELAY_MS)
    const run = new Task(line, task, [payload ?? undefined], { ...spec, name: label, timeout, attempts, delay: 0 })
    const { extra } = run
    extra.id = id
    extra.attempts = delivery.attempt - 1
    engine.ledger.accept(run, line)
    engine.ledger.deliveries++
    engine.join(run, line)
    engine.runner.enqueue(line)
    const settled = run.settled()
    const cancel = () => { run.cancel() }
    if (delivery.signal.aborted) cancel()
    else delivery.signal.addEventListener('abort', cancel, { once: true })
    const state = await settled
    engine.ledger.deliveries--
    delivery.signal.removeEventListener('abort', cancel)
    if (state === 'completed') return { state, result: extra.result }
    if (state === 'cancelled') return { state }
    if (engine.returns(line, extra.error)) return returnTask(engine.closeReason as unknown as Error, 0)
    return { state: 'failed', error: extra.error }
  }
}
