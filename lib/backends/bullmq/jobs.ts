import type { Job, JobJson, JobsOptions, UnrecoverableError } from 'bullmq'
import type { ListedTask, ListName, StoredTask, TaskInfo, TaskRecord } from '../../../types/backend'
import type { BackoffOptions, TaskState } from '../../../types/task'
import { toJson } from '../../shared/json'
import { received, textOf } from '../../shared/show'
import { isUnrecoverable } from '../../shared/unrecoverable-error'
import { codeOf, setCode } from '../error-code'
import { flawOf, shownTask } from '../stored-task'
import { foreignMessage } from './private'

/* Conversions between tasks and jobs of BullMQ. */

/** A job's data: the fields of a task for which BullMQ has no place of its own. Fields that a task does not use are left out. */
export type JobData = {
  [field in 'label' | 'payload' | 'requestId' | 'timeout' | 'dedupe' | 'carrier']?: NonNullable<StoredTask[field]> | undefined
} & {
  /** Whether the result is `null`: BullMQ also has `null` for a task that returned nothing. */
  returnedNull?: boolean
}

export type TaskJob = Job<JobData>

/** The `failedReason` of a task that was cancelled while it ran. */
export const CANCELLED = 'FST_BGT_CANCELLED'

const UNFINISHED: Record<string, TaskState> = {
  waiting: 'pending',
  prioritized: 'pending',
  'waiting-children': 'pending',
  delayed: 'pending',
  active: 'running',
  // Settled since the job was read, which has no result yet: show it as it was read.
  completed: 'running',
  failed: 'running'
}

const FINISHED: Record<string, TaskState> = { ...UNFINISHED, completed: 'completed', failed: 'failed' }

/** The lists that `list` shows, in their order. */
export const LISTED = ['running', 'waiting', 'delayed', 'failed'] as const

/** A job to be added. Fields that BullMQ sets later are missing. */
export function newJob (task: StoredTask, now: number): JobJson {
  const { id, name, label, payload, requestId, attempts, backoff, delay, timeout, dedupe, carrier } = task
  // JSON leaves out `undefined`.
  const data: JobData = {
    label: label === name ? undefined : label,
    payload: payload ?? undefined,
    requestId: requestId ?? undefined,
    timeout: timeout === 0 ? undefined : timeout,
    dedupe: dedupe ?? undefined,
    carrier: carrier ?? undefined
  }
  const opts: JobsOptions = { attempts }
  // The column on Postgres is an integer.
  if (delay !== 0) opts.delay = Math.ceil(delay)
  if (backoff !== null) opts.backoff = { ...backoff, delay: Math.ceil(backoff.delay) }
  if (dedupe !== null) opts.deduplication = { id: dedupe }
  return { id, name, data: JSON.stringify(data), opts, timestamp: now, deduplicationId: dedupe ?? undefined } as JobJson
}

/** The task of a job. `delay` and `backoff` are left to BullMQ. */
export function storedTask ({ id, name, data, opts: { attempts = 1 } }: TaskJob): StoredTask {
  const { label = name, payload = null, requestId = null, timeout = 0, dedupe = null, carrier = null } = isData(data) ? data : {}
  return { id: id as string, name, label, payload, requestId, attempts, backoff: null, delay: 0, timeout, dedupe, carrier }
}

/** The flaw of a job that is no task, as part of a message; `null` if it is one. */
export function flawOfJob (job: TaskJob): string | null {
  const { id, data, opts: { backoff = null } } = job
  if (!isData(data)) return `its data is ${received(data)}`
  return flawOf(id as string, { ...storedTask(job), backoff: backoff === null ? null : { jitter: 0, ...backoff as BackoffOptions } })
}

/** Another program may have added the job. */
function isData (data: unknown): data is JobData {
  return typeof data === 'object' && data !== null && !Array.isArray(data)
}

function shownJob (job: TaskJob): ReturnType<typeof shownTask> {
  return shownTask(job.id as string, storedTask(job))
}

/**
 * A value as JSON has it, and `undefined` for what JSON leaves out. Throws where JSON, or a store, does not take it.
 * @param jsonb whether it is for Postgres, which keeps neither a NUL nor half of a character
 */
export function storedValue (value: unknown, jsonb: boolean): unknown {
  const json = toJson(value)
  return json === null ? undefined : JSON.parse(jsonb ? clean(json) : json)
}

/** The last line of a stored stack, with the error's `code`: BullMQ has no other place for it. */
const CODE_LINE = /\n {4}code: (.*)$/

/** A new error for BullMQ: it reads instructions in the names and messages of errors, and the user's must give none. */
export function storedFailure (error: unknown, Unrecoverable: typeof UnrecoverableError, jsonb: boolean): Error {
  const Failure = isUnrecoverable(error) ? Unrecoverable : Error
  const keep = jsonb ? plain : String
  const failure = new Failure(foreignMessage(keep(textOf(error))))
  if (error instanceof Error && error.stack !== undefined) failure.stack = keep(error.stack)
  const code = codeOf(error)
  if (code !== undefined) failure.stack += `\n    code: ${JSON.stringify(code)}`
  return failure
}

/** Text with U+FFFD for what `text` of Postgres cannot hold: NUL, and half of a character. */
function plain (text: string): string {
  return text.replace(/\0|\p{Surrogate}/gu, '\ufffd')
}

/** JSON with U+FFFD for the same, which JSON writes as escapes. */
function clean (json: string): string {
  return json.replace(/(?<!\\)((?:\\\\)*)\\u(?:0000|d[89a-f][\da-f]{2})/g, '$1\ufffd')
}

/** The state of a job's task, by the job's state in BullMQ; `undefined` if it was removed since the job was read. */
export function stateOf (job: TaskJob, state: string): TaskState | undefined {
  return (job.finishedOn === undefined ? UNFINISHED : FINISHED)[state]
}

export function taskInfo (job: TaskJob, state: TaskState): TaskInfo {
  const cancelled = state === 'failed' && job.failedReason === CANCELLED
  return {
    id: job.id as string,
    name: shownJob(job).label,
    state: cancelled ? 'cancelled' : state,
    attempts: state === 'running' ? job.attemptsMade + 1 : job.attemptsMade,
    progress: job.progress === 0 ? undefined : job.progress,
    result: state === 'completed' ? job.returnvalue ?? (job.data.returnedNull ? null : undefined) : undefined,
    error: state === 'failed' && !cancelled ? errorOf(job) : undefined
  }
}

/** The list of a job, by its state in BullMQ; `undefined` if it was removed since it was read. */
export function listOf (job: TaskJob, state: string): ListName | undefined {
  return { running: 'running', completed: 'completed', failed: 'failed', pending: state === 'delayed' ? 'delayed' : 'waiting' }[stateOf(job, state) as string] as ListName | undefined
}

export function listedTask (job: TaskJob, list: ListName): ListedTask {
  const { attemptsMade, timestamp, delay } = job
  const state = list === 'delayed' && attemptsMade > 0 ? 'retrying' : list === 'failed' && job.failedReason === CANCELLED ? 'cancelled' : list
  const ended = job.finishedOn
  const since = { running: job.processedOn, waiting: timestamp + delay, delayed: timestamp, retrying: job.processedOn, failed: ended, completed: ended, cancelled: ended }[state]
  return {
    ...shownJob(job),
    state,
    since: since ?? null,
    // BullMQ's `delay` counts from when the task was added, or its last attempt began.
    due: list === 'delayed' ? (attemptsMade > 0 ? since as number : timestamp) + delay : null,
    attempt: list === 'running' ? attemptsMade + 1 : attemptsMade,
    progress: job.progress === 0 ? undefined : job.progress,
    error: job.failedReason === undefined ? undefined : errorOf(job)
  }
}

export function taskRecord (job: TaskJob, list: ListName): TaskRecord {
  const { timestamp, processedOn = null, finishedOn = null, failedReason } = job
  const listed = listedTask(job, list)
  // Read from a server, it is an array.
  const stacks = job.stacktrace as string[]
  // Each stack begins with its message. The last one's is `failedReason`.
  const errors = stacks.map((stack, index) => errorWith(index === stacks.length - 1 && failedReason !== undefined ? failedReason : messageOf(stack), stack))
  if (errors.length === 0 && listed.error !== undefined) errors.push(listed.error)
  return {
    ...listed,
    added: timestamp,
    started: processedOn,
    ended: finishedOn,
    errors: listed.state === 'cancelled' ? [] : errors,
    result: list === 'completed' ? taskInfo(job, 'completed').result : undefined
  }
}

function errorOf (job: TaskJob): Error {
  return errorWith(job.failedReason as string, (job.stacktrace as string[]).at(-1))
}

/** The message at the beginning of a stack, behind the name of the error's class. */
function messageOf (stack: string): string {
  const [first] = stack.split('\n    at ', 1) as [string]
  return first.replace(/^[\w$]*Error: /, '')
}

function errorWith (message: string, stack: string | undefined): Error {
  const error = new Error(message)
  if (stack !== undefined) {
    error.stack = stack.replace(CODE_LINE, '')
    setCode(error, parsed(CODE_LINE.exec(stack)?.[1]))
  }
  return error
}

/** The value of JSON; `undefined` for any other text: another program may have written the line. */
function parsed (json: string | undefined): unknown {
  try {
    return json === undefined ? undefined : JSON.parse(json)
  } catch {
    return undefined
  }
}

/** The request that added a task; `null` if that is not known. */
export function requestIdOf (job: TaskJob | undefined): string | null {
  return job === undefined ? null : shownJob(job).requestId
}

/** A task as log lines show it. */
export function loggedTask (job: TaskJob | undefined): { id: string | undefined, name: string } | undefined {
  return job && { id: job.id, name: shownJob(job).label }
}
