import { inspect } from 'node:util'
import type { ListedTask } from '../backends/backend'
import type { Line } from '../line'
import type { Runtime } from '../runtime'
import { Snapshot } from '../snapshot'
import { isDurable } from '../store'
import { COLLECTING, RUNNING, type Task } from '../task'
import { text } from '../write-log'
import { Monitor, type Failure } from './monitor'

/*
 * What the page is told: plain JSON, bounded in size. How tasks look, wherever they are kept, is decided here alone.
 */

export type ViewState = 'running' | 'waiting' | 'delayed' | 'retrying' | 'collecting'

/** A task that has not ended. Times are ms of `Date.now()`. */
export interface TaskView {
  id: string
  name: string
  requestId: string | null
  state: ViewState
  since: number | null
  due: number | null
  attempt: number
  attempts: number
  progress: ProgressView | null
  /** Why it is as it is; empty where there is nothing to say. */
  why: string
  /** How many tasks of its request wait for it. */
  behind: number
  /** Whether the backend has it. */
  stored: boolean
  /** Whether this process has it. */
  here: boolean
  cancellable: boolean
  payload?: string
}

export interface ProgressView {
  /** 0 to 100; `null` if what was noted is no share of a whole. */
  percent: number | null
  text: string
}

/** A task that has failed. */
export interface FailureView {
  id: string
  name: string
  requestId: string | null
  at: number | null
  attempt: number
  error: string
  stack: string
  again: boolean
  payload?: string
}

const MAX_NAME = 100
const MAX_PAYLOAD = 2_000
const MAX_ERROR = 200
const MAX_STACK = 4_000
const MAX_CAUSES = 3

export function taskView (task: Task, line: Line, runtime: Runtime, monitor: Monitor): TaskView {
  const { spec } = task
  const state = stateOf(task)
  return {
    id: task.ownId,
    name: nameOf(task),
    requestId: requestIdOf(line),
    state,
    since: Monitor.sinceOf(task),
    due: state === 'delayed' || state === 'retrying' ? task.extra.due : null,
    attempt: task.attempts,
    attempts: spec?.attempts ?? 1,
    progress: progressView(task.extra.progress),
    why: whyOf(task, state, line, runtime, monitor),
    behind: state === 'running' ? line.unsettled - 1 : 0,
    stored: line.retriesElsewhere,
    here: true,
    cancellable: state !== 'running' || (spec !== null && (spec.signal || spec.definition !== null))
  }
}

export function listedView (task: ListedTask & { state: ViewState }, withPayload: boolean): TaskView {
  const { id, state, since, due, attempt, attempts, progress, error, payload } = task
  return {
    id,
    name: clip(task.label, MAX_NAME),
    requestId: requestIdOf(task),
    state,
    since,
    due,
    attempt,
    attempts,
    progress: progressView(progress),
    why: state === 'retrying' && error !== undefined ? firstLine(text(error)) : WHY_LISTED[state],
    behind: 0,
    stored: true,
    here: false,
    cancellable: state !== 'running',
    ...(withPayload && { payload: clip(payload ?? '', MAX_PAYLOAD) })
  }
}

/** Why stored tasks are as they are that this process does not run. */
const WHY_LISTED: Record<ListedTask['state'], string> = {
  // The list may be two seconds old.
  running: 'A worker has it, or had it a moment ago.',
  waiting: 'It waits for a worker.',
  delayed: 'It was added with a delay.',
  retrying: '',
  failed: ''
}

export function failureView (failure: Failure, again: boolean, withPayload: boolean): FailureView {
  const { id, at, attempt, error, spec, args } = failure
  return { id, name: clip(failure.name, MAX_NAME), requestId: requestIdOf(failure), at, attempt, ...errorView(error), again, ...(withPayload && { payload: payloadOf(spec, args) }) }
}

export function listedFailure (task: ListedTask, again: boolean, withPayload: boolean): FailureView {
  const { id, since, attempt, error, payload } = task
  return { id, name: clip(task.label, MAX_NAME), requestId: requestIdOf(task), at: since, attempt, ...errorView(error), again, ...(withPayload && { payload: clip(payload ?? '', MAX_PAYLOAD) }) }
}

export function stateOf (task: Task): ViewState {
  if (task.status === RUNNING) return waitsForThread(task) ? 'waiting' : 'running'
  if (task.status === COLLECTING) return 'collecting'
  // Only those that have options wait for a timer.
  if (task.spec === null || task.extra.timer === null) return 'waiting'
  return task.attempts === 0 ? 'delayed' : 'retrying'
}

/** It has its place among those that run, but nothing runs of it. */
function waitsForThread ({ spec, extra }: Task): boolean {
  return spec !== null && extra.attempt !== null && extra.attempt.waits
}

function nameOf (task: Task): string {
  return clip(task.name, MAX_NAME)
}

/** A client may have chosen it. */
function requestIdOf ({ requestId }: { requestId: string | null }): string | null {
  return requestId === null ? null : clip(requestId, MAX_NAME)
}

function whyOf (task: Task, state: ViewState, line: Line, { options, ledger, store }: Runtime, monitor: Monitor): string {
  switch (state) {
    case 'running': {
      const timeout = task.spec?.timeout ?? 0
      return timeout === 0 ? 'It has no timeout: nothing ends it but itself.' : `Its timeout ends it ${timeout < 120_000 ? `${timeout / 1_000} s` : `${Math.round(timeout / 60_000)} min`} after its attempt began.`
    }
    case 'collecting': return 'Its request has not been answered yet.'
    case 'delayed': return 'It was added with a delay.'
    case 'retrying': return firstLine(text(monitor.retryOf(task)))
  }
  if (task.status === RUNNING) return 'It waits for a free thread.'
  if (isDurable(task, line.runtime)) return `It is on its way to ${store!.name}.`
  if (line.held !== null) return `It waits for the next attempt of '${nameOf(line.held)}', of the same request.`
  if (line.current !== null) return `It waits for '${nameOf(line.current)}', of the same request.`
  if (ledger.count(RUNNING) >= options.concurrency) return options.concurrency === 1 ? 'The only place is taken.' : `All ${options.concurrency} places are taken.`
  return 'It is about to run.'
}

/** A number is a percentage; of two numbers, as in `{ page: 3, pages: 8 }`, the first is a part of the second. */
function progressView (value: unknown): ProgressView | null {
  if (value === undefined) return null
  return { percent: percentOf(value), text: shown(value, MAX_ERROR) }
}

function percentOf (value: unknown): number | null {
  if (typeof value === 'number') return value >= 0 && value <= 100 ? value : null
  const members = typeof value === 'object' && value !== null ? Object.values(value) : []
  const [part, whole] = members
  if (members.length !== 2 || typeof part !== 'number' || typeof whole !== 'number') return null
  return part >= 0 && part <= whole && whole > 0 ? part / whole * 100 : null
}

/** What a task was given. */
export function payloadOf (spec: Task['spec'], args: readonly unknown[]): string {
  if (spec === null || spec.definition === null) return shown(args, MAX_PAYLOAD)
  const [payload] = args
  // The payload of a defined task is JSON already, or a clone for its thread.
  return payload instanceof Snapshot ? shown(payload.value, MAX_PAYLOAD) : clip(String(payload ?? ''), MAX_PAYLOAD)
}

/** Anything can be an argument, a request for one, which is deep and wide; and showing it may fail. */
function shown (value: unknown, length: number): string {
  try {
    return clip(inspect(value, { depth: 2, maxArrayLength: 20, maxStringLength: 500, breakLength: 80 }), length)
  } catch {
    return 'what cannot be shown'
  }
}

function errorView (error: unknown): { error: string, stack: string } {
  const own = text(error)
  const stacks = [own]
  for (let cause = causeOf(error); cause !== undefined && stacks.length <= MAX_CAUSES; cause = causeOf(cause)) stacks.push(`caused by ${text(cause)}`)
  // A long one leaves room for what caused it.
  const room = Math.floor(MAX_STACK / stacks.length)
  return { error: firstLine(own), stack: stacks.map(stack => clip(stack, room)).join('\n') }
}

function causeOf (error: unknown): unknown {
  try {
    return error instanceof Error ? error.cause : undefined
  } catch {
    return undefined
  }
}

function firstLine (text: string): string {
  return clip(text.split('\n', 1)[0] as string, MAX_ERROR)
}

function clip (text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text
}
