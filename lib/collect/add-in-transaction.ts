import type { TaskHandle } from '../../types/task'
import { addChannel, publishAdd } from '../observe/channels'
import type { Line } from '../run/line'
import { FST_BGT_NOT_DURABLE } from '../shared/errors'
import type { HandOver } from '../store/hand-over'
import { storeInTransaction } from '../store/in-transaction'
import { checkFunction } from '../task/define'
import { nameOf } from '../task/name'
import { type Meaningless, refuseMeaningless } from '../task/options'
import type { TaskFunction } from '../task/task'
import { createTask } from './create-task'
import { OriginLine } from './origin-line'
import type { CollectorParts } from './parts'

/** The options of `add` that mean nothing where only the commit counts, each with the reason. */
const MEANINGLESS: readonly Meaningless[] = [
  ['runOn', 'left out in addInTransaction, where the commit decides'],
  ['key', 'left out in addInTransaction, where no task replaces another']
]

/**
 * See `Add.addInTransaction`.
 * @param request the collector of the request; `null` for the application's
 */
export function addInTransaction ({ engine, handOver }: CollectorParts, request: Line | null, client: unknown, first: unknown, args: unknown[]): Promise<TaskHandle> {
  const { ledger } = engine
  const isCaptured = engine.settings.mode === 'capture'
  const fn = typeof first === 'function' ? first : args[0]
  // First of all: the making of a task that stays here moves buffers, and queues the task for a thread.
  if (typeof fn === 'function') checkDurable(fn as TaskFunction, isCaptured, handOver)
  if (fn !== first) refuseMeaningless(first, MEANINGLESS)
  const line = new OriginLine(engine, request)
  const task = createTask(engine, line, first, args)
  ledger.assertRoom()
  if (!isCaptured) handOver!.store.assertTakesTransactions()
  ledger.accept(task, line)
  if (addChannel.hasSubscribers) publishAdd(task, line)
  // A subscriber may have cancelled the task.
  if (task.isSettled) return Promise.resolve(task)
  if (isCaptured) {
    engine.join(task, line)
    engine.runner.enqueue(line)
    return Promise.resolve(task)
  }
  const stored = storeInTransaction(engine, handOver!.store, client, task, line)
  return stored === undefined ? Promise.resolve(task) : stored.then(() => task)
}

function checkDurable (fn: TaskFunction, isCaptured: boolean, handOver: HandOver | null): void {
  const definition = checkFunction(fn)
  if (definition === undefined) throw new FST_BGT_NOT_DURABLE(`the function '${nameOf(fn)}'`)
  if (definition.spec.local) throw new FST_BGT_NOT_DURABLE(`'${definition.name}', which is defined with local: true`)
  if (handOver === null && !isCaptured) throw new FST_BGT_NOT_DURABLE(`'${definition.name}' in an application without a backend`)
}
