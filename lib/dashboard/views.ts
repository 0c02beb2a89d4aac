import type { ListedTask, TaskRecord } from '../../types/backend'
import type { Line } from '../run/line'
import type { Parts } from './parts'
import { readOr } from '../shared/read-or'
import { show } from '../shared/show'
import { stackOf } from '../shared/write-log'
import { isPlainObject } from '../task/options'
import { Snapshot } from '../task/snapshot'
import { COLLECTING, RUNNING } from '../task/states'
import type { Task } from '../task/task'
import { clip, clipName, firstLine, lineOf } from './groups'
import { type Failure, Monitor } from './monitor'
import type { AttemptError, ListName, ProgressView, TaskDetails, TaskView, ViewState } from './protocol'

/* The views of tasks, wherever they are kept. Each view is bounded in size. */

/** The folder of the plugin's code, as stacks name it, from a frame of this file; empty in a user's bundle, whose frames do not tell. */
const FOLDER = String(new Error().stack).replace(/^.*?(?:\(|at )([^()\n]*[\\/])dashboard[\\/](?:views\.[jt]s|(?<=dist[\\/]lib[\\/]dashboard[\\/])index\.js):.*$|^.*$/s, '$1')

const MAX_PAYLOAD_CHARS = 20_000
const MAX_TEXT_CHARS = 200
const MAX_STACK_CHARS = 6_000
const MAX_CAUSES = 3
/** Levels of JSON: the indentation of deep values would be most of the text. */
const MAX_JSON_DEPTH = 50
/** Longer JSON is shown as it is: parsing it would take long. */
const MAX_PARSED_CHARS = 200_000

export function taskView (task: Task, line: Line, parts: Parts, monitor: Monitor): TaskView {
  const { spec } = task
  const state = stateOf(task, line)
  const error = monitor.errorsOf(task).at(-1)
  return {
    id: task.ownId,
    name: nameOf(task),
    requestId: requestIdOf(line),
    state,
    since: state === 'waiting' ? Monitor.queuedSince(task) : Monitor.sinceOf(task),
    due: state === 'delayed' || state === 'retrying' ? task.extra.due : null,
    // One that waits for a thread has not begun.
    attempt: state === 'waiting' && task.status === RUNNING ? task.attempts - 1 : task.attempts,
    attempts: spec?.attempts ?? 1,
    progress: progressView(task.extra.progress),
    silentSince: state === 'running' ? monitor.silentSince(task) : null,
    why: whyOf(task, state, line, parts, monitor),
    behind: state === 'running' ? line.unsettled - 1 : 0,
    stored: line.delivery !== null,
    here: true,
    cancellable: state !== 'running' || listens(task),
    again: false,
    error: error === undefined ? null : firstLine(lineOf(error.error))
  }
}

/** @param again whether the backend can run a failed task again */
export function listedView (task: ListedTask, again: boolean): TaskView {
  const { id, state, since, due, attempt, attempts, progress, error } = task
  const shownError = error === undefined ? null : firstLine(lineOf(error))
  return {
    id,
    name: clipName(task.label),
    requestId: requestIdOf(task),
    state,
    since,
    due,
    attempt,
    attempts,
    progress: progressView(progress),
    silentSince: state === 'running' ? since : null,
    why: state === 'retrying' && shownError !== null ? shownError : WHY_STORED[state],
    behind: 0,
    stored: true,
    here: false,
    cancellable: state === 'waiting' || state === 'delayed' || state === 'retrying',
    again: state === 'failed' && again,
    error: shownError
  }
}

/** The reasons of stored tasks that do not run in this process. */
const WHY_STORED: Record<ListedTask['state'], string> = {
  // The list may be two seconds old.
  running: 'A worker has it, or had it a moment ago.',
  waiting: 'It waits for a worker.',
  delayed: 'It was added with a delay.',
  retrying: '',
  failed: '',
  completed: '',
  cancelled: ''
}

/** A task of this process that has failed. */
export function failureView (failure: Failure, again: boolean): TaskView {
  const { id, at, attempt, errors, spec, delivered } = failure
  const error = firstLine(lineOf(errors.at(-1)!.error))
  return {
    id,
    name: clipName(failure.name),
    requestId: requestIdOf(failure),
    state: 'failed',
    since: at,
    due: null,
    attempt,
    attempts: spec?.attempts ?? 1,
    progress: null,
    silentSince: null,
    why: failure.whole || again ? '' : 'It cannot be run again: its payload has moved to its thread.',
    behind: 0,
    stored: delivered,
    here: true,
    cancellable: false,
    again,
    error
  }
}

/** @param payload as text; `null` if payloads are not shown */
export function liveDetails (task: Task, line: Line, parts: Parts, monitor: Monitor, payload: string | null): TaskDetails {
  const view = taskView(task, line, parts, monitor)
  const started = view.state === 'running' ? view.since : null
  return { ...view, progress: progressView(task.extra.progress, true), folder: FOLDER, added: null, started, ended: null, errors: monitor.errorsOf(task).map(errorView), ...(payload !== null && { payload }) }
}

export function failureDetails (failure: Failure, again: boolean, payload: string | null): TaskDetails {
  return { ...failureView(failure, again), folder: FOLDER, added: null, started: failure.started, ended: failure.at, errors: failure.errors.map(errorView), ...(payload !== null && { payload }) }
}

export function recordDetails (record: TaskRecord, again: boolean, withPayload: boolean): TaskDetails {
  const { added, started, ended, errors, result, payload, state } = record
  return {
    ...listedView(record, again),
    progress: progressView(record.progress, true),
    folder: FOLDER,
    added,
    started,
    ended,
    errors: errors.map(error => errorView({ at: null, error })),
    ...(withPayload && { payload: formatted(payload ?? ''), ...(state === 'completed' && { result: shownResult(result) }) })
  }
}

/** A task of this process that has ended, as far as it is kept. */
export function endedDetails (info: { id: string, name: string, state: string, attempts: number, progress: unknown, result: unknown, error: unknown }, withPayload: boolean): TaskDetails {
  const { id, name, state, attempts, progress, result, error } = info
  return {
    id,
    name: clipName(name),
    requestId: null,
    state: state as ViewState,
    since: null,
    due: null,
    attempt: attempts,
    attempts,
    progress: progressView(progress, true),
    silentSince: null,
    why: 'Of a task that has ended in this process, its times, its payload and its request are not kept.',
    behind: 0,
    stored: false,
    here: true,
    cancellable: false,
    again: false,
    error: error === undefined ? null : firstLine(lineOf(error)),
    folder: FOLDER,
    added: null,
    started: null,
    ended: null,
    errors: error === undefined ? [] : [errorView({ at: null, error })],
    ...(withPayload && state === 'completed' && { result: shownResult(result) })
  }
}

export function stateOf (task: Task, { attempt }: Line): ViewState {
  // A task that waits for a thread counts as running.
  if (task.status === RUNNING) return attempt?.waits === true ? 'waiting' : 'running'
  if (task.status === COLLECTING) return 'collecting'
  // Only tasks with options wait for a timer.
  if (task.spec === null || task.extra.clearTimer === null) return 'waiting'
  return task.attempts === 0 ? 'delayed' : 'retrying'
}

/** The list of each state. */
export const LIST_OF: Record<ViewState, ListName | null> = {
  running: 'running',
  waiting: 'waiting',
  collecting: 'waiting',
  delayed: 'later',
  retrying: 'later',
  failed: 'failed',
  completed: 'completed',
  cancelled: null,
  dropped: null
}

/** Whether the function of a task can be told to stop. */
function listens ({ spec }: Task): boolean {
  return spec !== null && (spec.signal || spec.definition !== null)
}

export function nameOf (task: Task): string {
  return clipName(task.name)
}

/** Cut off: a client may have chosen the id. */
function requestIdOf ({ requestId }: { requestId: string | null }): string | null {
  return requestId === null ? null : clipName(String(requestId))
}

function whyOf (task: Task, state: ViewState, line: Line, { ledger, settings, handOver }: Parts, monitor: Monitor): string {
  switch (state) {
    case 'running': {
      const timeout = task.spec?.timeout ?? 0
      if (timeout === 0) return listens(task) ? 'It has no timeout.' : 'It has no timeout, and cannot be cancelled: it ends by itself, or with the process.'
      return `Its timeout ends it ${timeout < 120_000 ? `${timeout / 1_000} s` : `${Math.round(timeout / 60_000)} min`} after its attempt began.`
    }
    case 'collecting': return 'Its request has not been answered yet.'
    case 'delayed': return 'It was added with a delay.'
    case 'retrying': return firstLine(lineOf(monitor.errorsOf(task).at(-1)?.error))
  }
  if (task.status === RUNNING) return 'It waits for a free thread.'
  if (handOver !== null && line.delivery === null && handOver.isDurable(task)) return `It is on its way to ${handOver.store.name}.`
  if (line.held !== null) return `It waits for the next attempt of '${nameOf(line.held)}', of the same request.`
  if (line.current !== null) return `It waits for '${nameOf(line.current)}', of the same request.`
  if (ledger.count(RUNNING) >= settings.concurrency) return settings.concurrency === 1 ? 'The only place is taken.' : `All ${settings.concurrency} places are taken.`
  return 'It is about to run.'
}

/** A number is a percentage; in an object of two numbers, `{ page: 3, pages: 8 }`, the first is a part of the second. Cut off for a list. */
export function progressView (value: unknown, isWhole = false): ProgressView | null {
  if (value === undefined) return null
  return { percent: percentOf(value), text: isWhole ? shownJson(value, MAX_PAYLOAD_CHARS, 2) : shownJson(value, MAX_TEXT_CHARS) }
}

function percentOf (value: unknown): number | null {
  if (typeof value === 'number') return value >= 0 && value <= 100 ? value : null
  const members: unknown[] = typeof value === 'object' && value !== null ? readOr(() => Object.values(value), []) : []
  const [part, whole] = members
  if (members.length !== 2 || typeof part !== 'number' || typeof whole !== 'number') return null
  return part >= 0 && part <= whole && whole > 0 ? part / whole * 100 : null
}

/** A task's payload or arguments as text. */
export function payloadOf (spec: Task['spec'], args: readonly unknown[]): string {
  // What a function gets may be a request, or know how it is to be shown.
  if (spec === null || spec.definition === null) return shown(args, MAX_PAYLOAD_CHARS)
  const [payload] = args
  // The payload of a defined task is JSON already, or a clone for its thread.
  return payload instanceof Snapshot ? shownJson(payload.value, MAX_PAYLOAD_CHARS, 2) : formatted(String(payload ?? ''))
}

/** JSON with line breaks, unless it is too long. */
function formatted (json: string): string {
  if (json.length > MAX_PARSED_CHARS) return clip(json, MAX_PAYLOAD_CHARS)
  try {
    return clip(JSON.stringify(JSON.parse(json), null, 2), MAX_PAYLOAD_CHARS)
  } catch {
    return clip(json, MAX_PAYLOAD_CHARS)
  }
}

/** A result as text. Functions of this process may return anything. */
function shownResult (result: unknown): string {
  return result === undefined ? '' : shownJson(result, MAX_PAYLOAD_CHARS, 2)
}

/** What JSON makes of a value, if that is all that the value says, and neither long nor deep; any other value as `shown` has it. */
function shownJson (value: unknown, length: number, indent = 0): string {
  let room = length
  const depths = new Map<unknown, number>()
  function take (this: unknown, name: string, member: unknown): unknown {
    const depth = (depths.get(this) ?? 0) + 1
    room -= (Array.isArray(this) ? 1 : name.length) + (typeof member === 'string' ? member.length : 1)
    if (room < 0 || depth > MAX_JSON_DEPTH || !isJson(member)) throw new RangeError('No short JSON')
    depths.set(member, depth)
    return member
  }
  try {
    const json = JSON.stringify(value, take, indent)
    return json.length <= length ? json : shown(value, length)
  } catch {
    return shown(value, length)
  }
}

/** Whether JSON has all that a value says, leaving its members aside. */
function isJson (value: unknown): boolean {
  if (typeof value === 'number') return Number.isFinite(value)
  return typeof value === 'string' || typeof value === 'boolean' || value === null || Array.isArray(value) || isPlainObject(value)
}

/** Any value as text. An argument may be a request, for instance, which is deep and wide. */
function shown (value: unknown, length: number): string {
  return clip(show(value, { depth: 3, maxArrayLength: 50, maxStringLength: 2_000, breakLength: 80 }), length)
}

function errorView ({ at, error }: { at: number | null, error: unknown }): AttemptError {
  const stacks = [stackOf(error)]
  for (let cause = causeOf(error); cause !== undefined && stacks.length <= MAX_CAUSES; cause = causeOf(cause)) stacks.push(`caused by ${stackOf(cause)}`)
  // Leave room for the causes.
  const room = Math.floor(MAX_STACK_CHARS / stacks.length)
  return { at, error: firstLine(lineOf(error)), stack: stacks.map(stack => clip(stack, room)).join('\n') }
}

function causeOf (error: unknown): unknown {
  return readOr(() => error instanceof Error ? error.cause : undefined, undefined)
}
