import type { Queue } from 'bullmq'
import { createHash, randomUUID } from 'node:crypto'
import type { ScheduleState, StoredSchedule, StoredTask } from '../../../types/backend'
import { setLongTimeout } from '../../shared/deadline'
import { dueTimesOf, type DueTimes, isSameRule } from '../../shared/rule'
import type { Reports } from './reports'
import { begun, ended, nextDue, recordOf, type ScheduleRecord, type ScheduleRecords, stateOfSchedule, take, untilNext } from './schedule-record'

/** Milliseconds after an error before a process looks at a schedule again. */
const RETRY_MS = 1_000

/** The most milliseconds between two looks: the server's clock may be set, and a machine suspended. */
const MAX_WAIT_MS = 600_000

/** The parts of its backend that schedules use. */
export interface ScheduleContext {
  readonly queue: Queue
  readonly records: ScheduleRecords
  readonly reports: Reports
  /** Stores a task. Resolves with its id, or that of the task that has its dedupe id. */
  readonly store: (task: StoredTask) => Promise<string>
}

/**
 * Stores the runs of an application's schedules. Made when the backend is to keep them, ended with its close. docs/design.md says why
 * BullMQ's own job schedulers do not do that.
 */
export class Schedules {
  readonly #context: ScheduleContext
  #running: RunningSchedule[] = []

  constructor (context: ScheduleContext) {
    this.#context = context
  }

  /** Takes schedules over from the processes that were started before. */
  async begin (schedules: readonly StoredSchedule[], tasks: readonly string[]): Promise<void> {
    const { records } = this.#context
    this.#running = schedules.map(schedule => new RunningSchedule(schedule, this.#context))
    if (schedules.length !== 0) await records.prepare()
    for (const schedule of schedules) await this.#keep(schedule, tasks)
    const { texts } = await records.read(null)
    const kept = new Set(schedules.map(({ id }) => id))
    for (const id of texts.keys()) if (!kept.has(id)) await this.#removeOwn(id, tasks)
    // Those that were stopped meanwhile stay so.
    for (const schedule of this.#running) schedule.begin()
  }

  async #keep (schedule: StoredSchedule, tasks: readonly string[]): Promise<void> {
    const { rule, overlap, task } = schedule
    let isOther = false
    const { record } = await change(this.#context.records, schedule.id, (record, time) => {
      isOther = record !== null && !isSameRule(record.rule, rule)
      return record === null || isOther ? begun(record, schedule, tasks, time) : { ...record, overlap, task, tasks }
    })
    if (isOther) this.#context.reports.scheduleChanged(schedule.id, dueTimesOf(rule).next(record!.takenUntil))
  }

  /** Removes a schedule that the same application wrote: one that has the name of a task in common. */
  async #removeOwn (id: string, tasks: readonly string[]): Promise<void> {
    let removed: ScheduleRecord | null = null
    await change(this.#context.records, id, record => {
      removed = record !== null && record.tasks.some(name => tasks.includes(name)) ? record : null
      return removed === null ? record : null
    })
    if (removed !== null) this.#context.reports.scheduleRemoved(id, (removed as ScheduleRecord).task.label)
  }

  pause (): void {
    for (const schedule of this.#running) schedule.stop()
  }

  resume (): void {
    for (const schedule of this.#running) schedule.resume()
  }

  /** Resolves when no run is being stored any more, after `pause`. */
  async idle (): Promise<void> {
    await Promise.all(this.#running.map(schedule => schedule.idle()))
  }
}

/** The states of the schedules with these ids that are kept. */
export async function statesOfSchedules (records: ScheduleRecords, ids: readonly string[]): Promise<ScheduleState[]> {
  const { texts } = await records.read(ids)
  return [...texts].flatMap(([id, text]) => {
    const record = recordOf(text)
    return record === null ? [] : [stateOfSchedule(id, record)]
  })
}

/** One schedule, for which this process waits. Several processes wait for the same due time; one of them takes it. */
class RunningSchedule {
  readonly #schedule: StoredSchedule
  readonly #context: ScheduleContext
  readonly #times: DueTimes
  /** The name of this process in records. */
  readonly #by = randomUUID()
  #isStart = true
  #isStopped = false
  #clearTimer = () => {}
  #look: Promise<void> = Promise.resolve()

  constructor (schedule: StoredSchedule, context: ScheduleContext) {
    this.#schedule = schedule
    this.#context = context
    this.#times = dueTimesOf(schedule.rule)
  }

  begin (): void {
    this.#wait(0)
  }

  async resume (): Promise<void> {
    this.#isStart = true
    this.#isStopped = false
    await this.#look
    this.#wait(0)
  }

  stop (): void {
    this.#isStopped = true
    this.#clearTimer()
  }

  idle (): Promise<void> {
    return this.#look
  }

  #wait (ms: number): void {
    this.#clearTimer()
    if (this.#isStopped || ms === Infinity) return
    this.#clearTimer = setLongTimeout(Math.min(ms, MAX_WAIT_MS), () => { this.#look = this.#lookAgain() }, false)
  }

  async #lookAgain (): Promise<void> {
    try {
      this.#wait(await this.#storeDue())
    } catch (error) {
      if (!this.#isStopped) this.#context.reports.trouble(error as Error)
      this.#wait(RETRY_MS)
    }
  }

  /** Stores the run of a due time that has come. Resolves with the ms until the next look. */
  async #storeDue (): Promise<number> {
    const { rule, id } = this.#schedule
    let due: number | null = null
    const { record, time } = await change(this.#context.records, id, (record, time) => {
      const taken = isOwn(record, rule) ? take(record, this.#times, time, this.#by, this.#isStart) : null
      due = taken === null ? null : taken.due
      return taken === null ? record : taken.record
    })
    this.#isStart = false
    if (due !== null) {
      await this.#storeRun(record!, due)
      return 0
    }
    // A process that was started later has another rule, or has removed the schedule: look whether that is still so when this rule is due.
    return isOwn(record, rule) ? untilNext(record, this.#times, time) : nextDue(this.#times, time) - time
  }

  async #storeRun ({ task }: ScheduleRecord, due: number): Promise<void> {
    const { queue, store, records, reports } = this.#context
    const { id } = this.#schedule
    const runId = runIdOf(queue.name, id, due)
    const storedId = await store({ ...task, id: runId })
    const isSkipped = storedId !== runId
    let isEnd = false
    await change(records, id, record => {
      const after = record && ended(record, due, isSkipped ? null : runId)
      isEnd = after !== record
      return after
    })
    if (isSkipped && isEnd) reports.skipped({ ...this.#schedule, task }, due, storedId)
  }
}

function isOwn (record: ScheduleRecord | null, rule: StoredSchedule['rule']): record is ScheduleRecord {
  return record !== null && isSameRule(record.rule, rule)
}

/**
 * Changes a record, in as many attempts as other processes change it at the same time.
 * @param to returns the record after the change, or the same one for none
 */
async function change (
  records: ScheduleRecords, id: string, to: (record: ScheduleRecord | null, time: number) => ScheduleRecord | null
): Promise<{ record: ScheduleRecord | null, time: number }> {
  for (;;) {
    const { time, texts } = await records.read([id])
    const before = texts.get(id) ?? null
    const known = before === null ? null : recordOf(before)
    const record = to(known, time)
    // A text that cannot be read stays as it is.
    if (record === known) return { record, time }
    const after = record === null ? null : JSON.stringify(record)
    if (after === before || await records.swap(id, before, after)) return { record, time }
  }
}

/** The id of the run of a due time, the same in each process: a UUID of version 8 (RFC 9562). */
export function runIdOf (queue: string, id: string, due: number): string {
  const bytes = createHash('sha256').update(JSON.stringify([queue, id, due])).digest()
  bytes[6] = (bytes[6]! & 0x0f) | 0x80
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  return bytes.toString('hex', 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}
