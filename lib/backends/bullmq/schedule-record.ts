import { type DueTimes, dueTimesOf } from '../../shared/rule'
import type { ScheduleState, StoredSchedule } from '../../../types/backend'

/* The record of a schedule, which is the same on both servers, and its changes. All times are the server's, in ms of the epoch. */

/** A due time whose run a process is about to store. */
interface TakenDue {
  readonly due: number
  /** The process. */
  readonly by: string
  readonly since: number
}

/** What the server keeps of a schedule. */
export interface ScheduleRecord extends Pick<StoredSchedule, 'rule' | 'overlap' | 'task'> {
  /** The names of the tasks of the application that wrote the record. */
  readonly tasks: readonly string[]
  /** Due times up to this one have been taken; at first the time of the start. */
  readonly takenUntil: number
  readonly taken: readonly TakenDue[]
  readonly last: number | null
  readonly lastId: string | null
  readonly skipped: number
}

/** Milliseconds after which another process stores the run of a due time: the one that has taken it may have died. */
export const LEASE_MS = 5_000

/** Milliseconds. Due times that are later than that become one run, as after a start: the processes were suspended, or the server away. */
const LATE_MS = 60_000

/** Where records are kept: in each server in its own way. */
export interface ScheduleRecords {
  /** Makes the place for records. */
  prepare (): Promise<void>
  /** The server's time, and the records with these ids, or all of them, as JSON. */
  read (ids: readonly string[] | null): Promise<{ time: number, texts: Map<string, string> }>
  /** Replaces the text of a record, where `null` is no record. Resolves with `false` where it is not `before` any more. */
  swap (id: string, before: string | null, after: string | null): Promise<boolean>
}

/** The record of a text; `null` if it cannot be read, because a human or a later version has written it. */
export function recordOf (text: string): ScheduleRecord | null {
  try {
    const record = JSON.parse(text) as ScheduleRecord
    // Another version may know expressions that this one does not.
    dueTimesOf(record.rule)
    return Array.isArray(record.tasks) && Array.isArray(record.taken) && record.task != null ? record : null
  } catch {
    return null
  }
}

/** A record that a process starts with its own rule: what was due before is over. */
export function begun (record: ScheduleRecord | null, { rule, overlap, task }: StoredSchedule, tasks: readonly string[], time: number): ScheduleRecord {
  return { taken: [], last: null, lastId: null, skipped: 0, ...record, rule, overlap, task, tasks, takenUntil: Math.max(time, record?.last ?? 0) }
}

/**
 * Takes the next due time of a record that has come, or one that another process has taken and left.
 * @param by the process
 * @param isStart whether to take only the latest of several
 * @returns the record and the due time; `null` if none has come
 */
export function take (record: ScheduleRecord, times: DueTimes, time: number, by: string, isStart: boolean): { record: ScheduleRecord, due: number } | null {
  const left = record.taken.find(taken => taken.by === by || Math.abs(time - taken.since) > LEASE_MS)
  if (left !== undefined) return { record: { ...record, taken: [...without(record, left.due), { due: left.due, by, since: time }] }, due: left.due }
  const next = nextDue(times, record.takenUntil)
  if (next > time) return null
  const due = isStart || time - next > LATE_MS ? Math.max(next, Number(times.latest(time))) : next
  return { record: { ...record, takenUntil: due, last: due, taken: [...record.taken, { due, by, since: time }] }, due }
}

/**
 * A record after the run of a due time was stored, or was skipped.
 * @param storedId the id of the run; `null` if it was skipped
 */
export function ended (record: ScheduleRecord, due: number, storedId: string | null): ScheduleRecord {
  // Another process was faster.
  if (!record.taken.some(taken => taken.due === due)) return record
  const taken = without(record, due)
  return storedId === null ? { ...record, taken, skipped: record.skipped + 1 } : { ...record, taken, lastId: storedId }
}

function without ({ taken }: ScheduleRecord, due: number): TakenDue[] {
  return taken.filter(other => other.due !== due)
}

/** The first due time after a time; `Infinity` for none. */
export function nextDue (times: DueTimes, after: number): number {
  return times.next(after) ?? Infinity
}

/** Milliseconds until there may be something to take; `Infinity` if never. */
export function untilNext (record: ScheduleRecord, times: DueTimes, time: number): number {
  const ends = record.taken.map(({ since }) => since + LEASE_MS + 1)
  return Math.min(nextDue(times, record.takenUntil), ...ends) - time
}

export function stateOfSchedule (id: string, { rule, task, takenUntil, last, lastId, skipped }: ScheduleRecord): ScheduleState {
  return { id, task: task.name, rule, next: dueTimesOf(rule).next(takenUntil), last, lastId, skipped }
}
