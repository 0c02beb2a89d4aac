import { RequestTasks } from '../collect/request-tasks'
import { publishAbandon } from '../observe/channels'
import { MAX_REPORTED } from '../observe/report'
import type { Engine } from '../run/engine'
import type { Line } from '../run/line'
import { setDeadline } from '../shared/deadline'
import { FST_BGT_CLOSE_TIMEOUT } from '../shared/errors'
import { mapInSlices } from '../shared/slices'
import { now, sleep } from '../shared/timers'
import { writeLog } from '../shared/write-log'
import type { Store } from '../store/store'
import { DROPPED, FAILED, RUNNING, STORED } from '../task/states'
import type { Task } from '../task/task'
import type { Threads } from '../threads'

/** The grace of running tasks after their signals have aborted: this share of `closeTimeout`, at most `SIGNAL_GRACE_MS`. */
const SIGNAL_GRACE_SHARE = 0.1
const SIGNAL_GRACE_MS = 500

/** The longest wait for the logger to write its lines. */
const LOG_WAIT_MS = 200

/** The parts of a registration that {@link drain} closes. */
interface Closing {
  readonly engine: Engine
  readonly store: Store | null
  readonly threads: Threads | null
}

/** A task without a final state, and its line. */
type Unsettled = readonly [task: Task, line: Line]

/**
 * Waits, on `app.close()`, until every accepted task has settled and every request with tasks is over, for at most `closeTimeout`.
 * Aborts, reports and abandons the remaining tasks. Does not reject.
 */
export async function drain ({ engine, store, threads }: Closing): Promise<void> {
  const { ledger, report, settings: { closeTimeout } } = engine
  await store?.pause()
  const deadline = Date.now() + closeTimeout
  const signalGrace = Math.min(closeTimeout * SIGNAL_GRACE_SHARE, SIGNAL_GRACE_MS)
  await drained(engine, closeTimeout)
  const reason = new FST_BGT_CLOSE_TIMEOUT(closeTimeout)
  const attempts = runningTasks(engine).map(([, { attempt }]) => attempt).filter(attempt => attempt !== null)
  engine.closeReason = reason
  report.closing = true
  if (attempts.length !== 0) {
    await mapInSlices(attempts, attempt => attempt.abort(reason))
    await drained(engine, signalGrace)
  }
  ledger.closed = true
  engine.runner.stop()
  await abandonAll(engine, reason)
  for (const end of ledger.handlers) end()
  // The DI scopes of the tasks abandoned above are still being disposed.
  await disposed(engine, Math.max(deadline - Date.now(), signalGrace))
  reportUndisposed(engine)
  await threads?.close()
  // Tasks of the application that are still being stored fail here.
  await store?.close()
  report.moreFailed()
  if (ledger.accepted === 0) return
  writeLog(() => engine.log, 'info', 'background tasks drained', () => ({ backgroundTasks: ledger.stats() }))
  await logWritten()
}

/** Reports the tasks that have not ended, running ones first, and abandons them. */
async function abandonAll (engine: Engine, reason: Error): Promise<void> {
  const { report } = engine
  let count = 0
  await mapInSlices(unsettledTasks(engine), ([task, line]) => {
    // `onError` or a signal's listener, which are user code, may have cancelled the task.
    if (task.isSettled) return
    // A task that returns to its backend before it has begun is not unfinished.
    if (task.status === RUNNING || !engine.returns(line, reason)) report.unfinished(task, line, reason, ++count <= MAX_REPORTED)
    if (!task.isSettled) abandon(engine, task, line, reason)
  })
  report.moreUnfinished(count)
}

/** Settles a task that has not ended in time, and stops waiting for its function. */
function abandon (engine: Engine, task: Task, line: Line, reason: Error): void {
  task.note('error', reason)
  const returns = engine.returns(line, reason)
  if (task.status !== RUNNING) return engine.settle(task, line, returns ? STORED : DROPPED, 'the application has closed')
  if (line.attempt !== null) {
    line.attempt.abandon(reason)
  } else {
    engine.ledger.abandon(line)
    publishAbandon(task, line, reason)
  }
  line.current = null
  engine.settle(task, line, returns ? STORED : FAILED)
}

function reportUndisposed ({ ledger, report }: Engine): void {
  const undisposed = [...ledger.disposals]
  for (const { line, task } of undisposed.slice(0, MAX_REPORTED)) {
    report.disposalFailed(line, new Error('it did not end before the application closed'), task)
  }
  report.moreUndisposed(undisposed.length)
}

/**
 * Resolves when no write to a file is under way, so that the last log line is written last even if the process exits at once:
 * docs/design.md, "The close".
 */
async function logWritten (): Promise<void> {
  const deadline = now() + LOG_WAIT_MS
  while (process.getActiveResourcesInfo().includes('FSReqCallback') && now() < deadline) await sleep(1)
}

/** Resolves when no task is left that could end within `ms`, or after `ms`. */
function drained (engine: Engine, ms: number): Promise<void> {
  const deadline = Date.now() + ms
  const { ledger } = engine
  return new Promise(resolve => {
    // Not unref'd: Node would exit in the middle of the close.
    const clear = setDeadline(ms, () => {
      forget()
      resolve()
    })
    const forget = ledger.whenLasting(() => isDrained(engine, deadline), () => {
      ledger.closed = true
      clear()
      resolve()
    })
  })
}

function isDrained (engine: Engine, deadline: number): boolean {
  if (engine.ledger.busy !== 0 || engine.ledger.handlers.size !== 0) return false
  for (const line of engine.ledger.openLines()) {
    // The handler still runs, and may call `add`.
    if (line instanceof RequestTasks && line.outcome === null) return false
    for (const task of line.tasks()) if (task.extra.due <= deadline) return false
  }
  return true
}

/** Resolves when no DI scope is being disposed any more, or after `ms`. */
function disposed ({ ledger }: Engine, ms: number): Promise<void> {
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

function runningTasks ({ ledger }: Engine): Unsettled[] {
  const tasks: Unsettled[] = []
  for (const line of ledger.openLines()) if (line.current?.status === RUNNING) tasks.push([line.current, line])
  return tasks
}

/** All unsettled tasks, running ones first. */
function unsettledTasks (engine: Engine): Unsettled[] {
  const tasks = runningTasks(engine)
  for (const line of engine.ledger.openLines()) {
    for (const task of line.tasks()) if (task.status !== RUNNING) tasks.push([task, line])
  }
  return tasks
}
