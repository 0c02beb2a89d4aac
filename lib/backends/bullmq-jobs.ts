import type { Job, JobJson, JobsOptions, UnrecoverableError } from 'bullmq'
import { textOf } from '../received'
import type { TaskState } from '../task'
import { isUnrecoverable } from '../unrecoverable-error'
import type { ListedTask, StoredTask, TaskInfo } from './backend'

/* How a task is a job of BullMQ, and a job a task. */

/** What a job's data holds beside what BullMQ has a place of its own for. Most of it most tasks do not have: it is left out. */
export type JobData = {
  [field in 'label' | 'payload' | 'requestId' | 'timeout' | 'dedupe' | 'carrier']?: NonNullable<StoredTask[field]> | undefined
}

export type TaskJob = Job<JobData>

/** The reason of a failure where the task was called off while it ran. */
export const CANCELLED = 'FST_BGT_CANCELLED'

const UNFINISHED: Record<string, TaskState> = {
  waiting: 'pending',
  prioritized: 'pending',
  'waiting-children': 'pending',
  delayed: 'pending',
  active: 'running',
  // It has ended since it was read, and what was read has no result in it: it is told as it was.
  completed: 'running',
  failed: 'running'
}

const FINISHED: Record<string, TaskState> = { ...UNFINISHED, completed: 'completed', failed: 'failed' }

/** The lists of the queue that are listed, in the order it is asked for them. */
export const LISTED = ['running', 'waiting', 'delayed', 'failed'] as const

/** A job that is to be added, as far as it is read then: the rest of it is about what has been done. */
export function newJob (task: StoredTask, now: number): JobJson {
  const { id, name, label, payload, requestId, attempts, backoff, delay, timeout, dedupe, carrier } = task
  // JSON passes over what is undefined.
  const data: JobData = {
    label: label === name ? undefined : label,
    payload: payload ?? undefined,
    requestId: requestId ?? undefined,
    timeout: timeout === 0 ? undefined : timeout,
    dedupe: dedupe ?? undefined,
    carrier: carrier ?? undefined
  }
  const opts: JobsOptions = { attempts }
  // Postgres takes no fractions.
  if (delay !== 0) opts.delay = Math.ceil(delay)
  if (backoff !== null) opts.backoff = { ...backoff, delay: Math.ceil(backoff.delay) }
  if (dedupe !== null) opts.deduplication = { id: dedupe }
  return { id, name, data: JSON.stringify(data), opts, timestamp: now, deduplicationId: dedupe ?? undefined } as JobJson
}

function labelOf ({ name, data }: TaskJob): string {
  return data.label ?? name
}

/** The task of a job that a worker has been handed. It is BullMQ that knows when it is due again. */
export function storedTask (job: TaskJob): StoredTask {
  const { id, name, data: { payload = null, requestId = null, timeout = 0, dedupe = null, carrier = null }, opts: { attempts = 1 } } = job
  const label = labelOf(job)
  return { id: id as string, name, label, payload, requestId, attempts, backoff: null, delay: 0, timeout, dedupe, carrier }
}

/** A result as JSON has it. Throws where JSON does not take it. */
export function storedResult (result: unknown): unknown {
  return JSON.parse(clean(JSON.stringify(result) ?? 'null'))
}

/** An error of BullMQ's own would tell it something by its name or message; one of the user's must not. */
export function storedFailure (error: unknown, Unrecoverable: typeof UnrecoverableError): Error {
  const Failure = isUnrecoverable(error) ? Unrecoverable : Error
  const message = textOf(error)
  const failure = new Failure(plain(message).replace(/^bullmq:/, 'Error: bullmq:'))
  if (error instanceof Error && error.stack !== undefined) failure.stack = plain(error.stack)
  return failure
}

/** Text that Postgres can keep, too: no NUL, and no half of a character. */
function plain (text: string): string {
  return text.replace(/\0|\p{Surrogate}/gu, '\ufffd')
}

/** The same for JSON text, where both are written as escapes. */
function clean (json: string): string {
  return json.replace(/(?<!\\)((?:\\\\)*)\\u(?:0000|d[89a-f][\da-f]{2})/g, '$1\ufffd')
}

/** The state of the task of a job, once that has been asked for its own; `undefined` where it has been removed meanwhile. */
export function stateOf (job: TaskJob, state: string): TaskState | undefined {
  return (job.finishedOn === undefined ? UNFINISHED : FINISHED)[state]
}

export function taskInfo (job: TaskJob, state: TaskState): TaskInfo {
  const cancelled = state === 'failed' && job.failedReason === CANCELLED
  return {
    id: job.id as string,
    name: labelOf(job),
    state: cancelled ? 'cancelled' : state,
    attempts: state === 'running' ? job.attemptsMade + 1 : job.attemptsMade,
    progress: job.progress === 0 ? undefined : job.progress,
    result: state === 'completed' ? job.returnvalue ?? undefined : undefined,
    error: state === 'failed' && !cancelled ? errorOf(job) : undefined
  }
}

export function listedTask (job: TaskJob, list: typeof LISTED[number]): ListedTask {
  const { id, name, data: { payload = null, requestId = null }, opts: { attempts = 1 }, attemptsMade, timestamp, delay } = job
  const state = list === 'delayed' && attemptsMade > 0 ? 'retrying' : list
  const since = { running: job.processedOn, waiting: timestamp + delay, delayed: timestamp, retrying: job.processedOn, failed: job.finishedOn }[state]
  return {
    id: id as string,
    name,
    label: labelOf(job),
    payload,
    requestId,
    attempts,
    state,
    since: since as number,
    // The queue's delay counts from the time when the task was added, or its last attempt began.
    due: list === 'delayed' ? (attemptsMade > 0 ? since as number : timestamp) + delay : null,
    attempt: list === 'running' ? attemptsMade + 1 : attemptsMade,
    progress: job.progress === 0 ? undefined : job.progress,
    error: job.failedReason === undefined ? undefined : errorOf(job)
  }
}

function errorOf (job: TaskJob): Error {
  const error = new Error(job.failedReason)
  const stack = job.stacktrace?.at(-1)
  if (stack !== undefined) error.stack = stack
  return error
}

/** A task as log lines show it. */
export function loggedTask (job: TaskJob | undefined): { id: string | undefined, name: string } | undefined {
  return job && { id: job.id, name: labelOf(job) }
}
