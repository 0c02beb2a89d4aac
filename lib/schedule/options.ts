import type { ScheduleRule, StoredSchedule, TaskBackend } from '../../types/backend'
import type { TaskDefinition } from '../../types/definition'
import type { Schedule } from '../../types/schedule'
import type { ScheduleSettings, Settings } from '../run/settings'
import { type Check, checkOptions, type Checks, flag, MAX_DELAY_MS } from '../shared/check-options'
import { FST_BGT_INVALID_OPTION, FST_BGT_UNKNOWN_TASK, FST_BGT_UNSUPPORTED } from '../shared/errors'
import { dueTimesOf } from '../shared/rule'
import { received, textOf } from '../shared/show'
import { definitionOf } from '../task/define'
import { isPlainObject, SCHEDULE_DEDUPE } from '../task/options'
import { serializePayload } from '../task/payload'
import type { Definition } from '../task/spec'

/** The least time between two runs of `every`, as of an expression with seconds. */
const MIN_EVERY_MS = 1_000

/** Stores use ids in keys of their own: BullMQ takes no colon, and a dedupe id has 1,024 bytes. */
const ID = /^[\p{L}\p{N}._/-]{1,100}$/u

const DEFAULTS = { payload: undefined, cron: undefined, timezone: undefined, every: undefined, overlap: false }

const CHECKS: Checks<Schedule> = {
  task: ['a defined task', value => typeof value === 'function' && definitionOf(value) !== undefined],
  // Checked when it is made JSON.
  payload: ['JSON', () => true],
  cron: ['an expression of five or six fields', value => typeof value === 'string'],
  timezone: ['the IANA name of a time zone', value => typeof value === 'string' && isTimezone(value)],
  every: [
    `a whole number of milliseconds from ${MIN_EVERY_MS} to ${MAX_DELAY_MS}`,
    value => Number.isSafeInteger(value) && value >= MIN_EVERY_MS && value <= MAX_DELAY_MS
  ],
  overlap: flag
}

export const schedulesCheck: Check = ['an object with a schedule for each id', isPlainObject]

/**
 * Checks the option `schedules`, and makes the payloads JSON.
 * @param tasks the tasks of the application, by name
 * @throws FST_BGT_INVALID_OPTION, FST_BGT_UNKNOWN_OPTION, FST_BGT_UNKNOWN_TASK, FST_BGT_INVALID_PAYLOAD, FST_BGT_PAYLOAD_TOO_LARGE
 */
export function resolveSchedules (schedules: Readonly<Record<string, Schedule>>, tasks: ReadonlyMap<string, TaskDefinition>): Map<string, ScheduleSettings> {
  return new Map(Object.entries(schedules).map(([id, schedule]) => [id, resolveSchedule(id, schedule, tasks)]))
}

function resolveSchedule (id: string, schedule: Schedule, tasks: ReadonlyMap<string, TaskDefinition>): ScheduleSettings {
  if (!ID.test(id)) {
    throw new FST_BGT_INVALID_OPTION('schedules', "an object whose ids have 1 to 100 letters, digits, '.', '_', '-' and '/'", received(id))
  }
  const path = `schedules.${id}`
  const { task, payload, cron, timezone, every, overlap } = checkOptions<Schedule, typeof DEFAULTS>(schedule, DEFAULTS, CHECKS, { required: ['task'], path })
  if ((cron === undefined) === (every === undefined)) {
    throw new FST_BGT_INVALID_OPTION(path, "an object with either 'cron' or 'every'", cron === undefined ? 'neither' : 'both')
  }
  if (tasks.get(task.name) !== task) throw new FST_BGT_UNKNOWN_TASK(task.name, received([...tasks.keys()]))
  return {
    id,
    task,
    payload: serializePayload(task.name, payload) ?? null,
    rule: cron === undefined ? everyRule(path, every!, timezone) : cronRule(path, cron, timezone),
    overlap
  }
}

function everyRule (path: string, every: number, timezone: string | undefined): ScheduleRule {
  if (timezone !== undefined) throw new FST_BGT_INVALID_OPTION(`${path}.timezone`, "left out with 'every', which is the same time everywhere", received(timezone))
  return { cron: null, timezone: null, every }
}

function cronRule (path: string, cron: string, timezone = ownTimezone()): ScheduleRule {
  const rule: ScheduleRule = { cron: cron.trim(), timezone, every: null }
  const refuse = (expected: string, reason = '') => new FST_BGT_INVALID_OPTION(`${path}.cron`, expected, `${received(cron)}${reason}`)
  // croner takes a date, too, which would be due once.
  if (!/^@|\s/.test(rule.cron) || rule.cron.includes(':')) throw refuse(CHECKS.cron[0])
  let next
  try {
    next = dueTimesOf(rule).next(Date.now())
  } catch (error) {
    throw refuse(CHECKS.cron[0], ` (${textOf(error)})`)
  }
  if (next === null) throw refuse('an expression that is due some time')
  return rule
}

function isTimezone (name: string): boolean {
  try {
    // Offsets such as +02:00 are known to later versions of Node only.
    return /^[A-Za-z]/.test(name) && new Intl.DateTimeFormat('en', { timeZone: name }) !== null
  } catch {
    return false
  }
}

/** The time zone of the process; UTC, as for `Date`, where the variable `TZ` has a name that Node does not know. */
function ownTimezone (): string {
  const { timeZone } = new Intl.DateTimeFormat().resolvedOptions() as { timeZone?: string }
  return timeZone !== undefined && isTimezone(timeZone) ? timeZone : 'UTC'
}

/**
 * The schedules whose runs a backend keeps.
 * @throws FST_BGT_UNSUPPORTED if it cannot
 */
export function durableSchedules ({ schedules, mode, backend }: Pick<Settings, 'schedules' | 'mode' | 'backend'>): ScheduleSettings[] {
  if (backend === null || mode === 'capture') return []
  const durable = [...schedules.values()].filter(({ task }) => !(definitionOf(task) as Definition).spec.local)
  if (durable.length !== 0) assertSchedules(backend)
  return durable
}

function assertSchedules ({ name, refuses, schedule }: TaskBackend): void {
  if (schedule === undefined) throw new FST_BGT_UNSUPPORTED(name, "the plugin option 'schedules'", refuses?.schedules ?? 'it keeps no schedules')
}

/** A schedule as a backend gets it. */
export function toStoredSchedule ({ id, task, payload, rule, overlap }: ScheduleSettings): StoredSchedule {
  const { name, spec: { attempts, backoff, delay, timeout } } = definitionOf(task) as Definition
  return {
    id,
    rule,
    overlap,
    task: { name, label: name, payload, requestId: null, attempts, backoff, delay, timeout, dedupe: dedupeOf(id, overlap), carrier: null }
  }
}

/** The dedupe id of a schedule's runs; `null` if they may overlap. */
export function dedupeOf (id: string, overlap: boolean): string | null {
  return overlap ? null : SCHEDULE_DEDUPE + id
}
