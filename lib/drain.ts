import { setTimeout as sleep } from 'node:timers/promises'
import { setDeadline } from './deadline'
import { FST_BGT_CLOSE_TIMEOUT } from './errors'
import type { Line } from './line'
import { RequestTasks } from './request-tasks'
import type { Runtime } from './runtime'
import { RUNNING, type Task } from './task'
import { writeLog } from './write-log'

/** Once the signals have aborted, the tasks get this share of `closeTimeout` to end, and no more ms than that. */
const LAST_SHARE = 0.1
const LAST_WAIT = 500

/** Milliseconds, at most, for the logger to write what it has been given. */
const LOG_WAIT = 200

/**
 * Waits, on `app.close()`, until every accepted task has ended and every request that has tasks is over, for at most
 * `closeTimeout`. What is left then is told to stop, reported one by one, and given up. Does not reject. Once for all
 * callers.
 */
export function drain (runtime: Runtime): Promise<void> {
  runtime.drained ??= drainOnce(runtime)
  return runtime.drained
}

async function drainOnce (runtime: Runtime): Promise<void> {
  const { ledger, options: { closeTimeout }, store } = runtime
  await store?.pause()
  const deadline = Date.now() + closeTimeout
  const lastWait = Math.min(closeTimeout * LAST_SHARE, LAST_WAIT)
  await drained(runtime, closeTimeout)
  const reason = new FST_BGT_CLOSE_TIMEOUT(closeTimeout)
  const attempts = unsettledTasks(runtime).map(([task]) => task.extra.attempt).filter(attempt => attempt !== null)
  runtime.closeReason = reason
  if (attempts.length !== 0) {
    for (const attempt of attempts) attempt.abort(reason)
    await drained(runtime, lastWait)
  }
  ledger.closed = true
  runtime.runner.stop()
  const unfinished = unsettledTasks(runtime)
  for (const [task, line] of unfinished) {
    // What has not begun and goes back to its backend is told as that. And the user's onError, and listeners to signals, may
    // have cancelled it meanwhile.
    if (!task.isSettled && (task.status === RUNNING || !line.givesBack(reason))) runtime.report.unfinished(task, line, reason)
    if (!task.isSettled) runtime.executor.abandon(task, line, reason)
  }
  // Those of tasks given up just now have hardly begun.
  await disposed(runtime, Math.max(deadline - Date.now(), lastWait))
  const undisposed = [...ledger.disposals]
  for (const { line, task } of undisposed) {
    runtime.report.disposalFailed(line, new Error('it did not end before the application closed'), task)
  }
  await runtime.threads?.close()
  await store?.close()
  if (ledger.accepted === 0) return
  writeLog(() => runtime.log, 'info', 'background tasks drained', () => ({ backgroundTasks: ledger.stats() }))
  await written()
}

/**
 * Resolves when no write to a file is under way. The logger of `logger: true` writes one piece after the other in Node's pool
 * of threads; where a process exits meanwhile, it writes the rest from the main thread, perhaps before the piece that is under
 * way. Many exit as soon as the application has closed: the account would not come last.
 */
async function written (): Promise<void> {
  const deadline = performance.now() + LOG_WAIT
  while (process.getActiveResourcesInfo().includes('FSReqCallback') && performance.now() < deadline) await sleep(1)
}

/** Resolves when nothing is left that could end within `ms`, or after `ms`. */
function drained (runtime: Runtime, ms: number): Promise<void> {
  const deadline = Date.now() + ms
  const { ledger } = runtime
  return new Promise(resolve => {
    // Not unref'd: Node would leave in the middle of closing.
    const clear = setDeadline(ms, () => {
      forget()
      resolve()
    })
    const forget = ledger.whenLasting(() => isDrained(runtime, deadline), () => {
      ledger.closed = true
      clear()
      resolve()
    })
  })
}

function isDrained (runtime: Runtime, deadline: number): boolean {
  if (runtime.ledger.busy !== 0) return false
  for (const line of runtime.ledger.openLines()) {
    // A handler at work may still add.
    if (line instanceof RequestTasks && line.outcome === null) return false
    for (const task of line.tasks()) if (task.extra.due <= deadline) return false
  }
  return true
}

/** Resolves when no DI scope is being disposed any more, or after `ms`. */
function disposed ({ ledger }: Runtime, ms: number): Promise<void> {
  return new Promise(resolve => {
    const check = () => { if (ledger.disposals.size === 0) end() }
    const end = () => {
      clear()
      unwatch()
      resolve()
    }
    const clear = setDeadline(ms, end)
    const unwatch = ledger.watch(check)
    check()
  })
}

function unsettledTasks (runtime: Runtime): Array<[Task, Line]> {
  const tasks: Array<[Task, Line]> = []
  for (const line of runtime.ledger.openLines()) {
    for (const task of line.tasks()) tasks.push([task, line])
  }
  return tasks
}
