import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { ScheduleState, StoredSchedule } from '../../../types/backend'
import { Alarm } from '../../shared/alarm'
import { type DueTimes, dueTimesOf, isSameRule } from '../../shared/rule'
import { logChanged, logRemoved, logSkipped } from '../schedule-log'
import { Troubles } from '../troubles'
import type { Connection } from './connection'
import type { Statement } from './node-sqlite'
import { dueIn, parse, type TaskTable } from './table'

/** Milliseconds before the runs that the file refused are tried again. */
const RETRY_DELAY_MS = 1_000

/** A row of the table. */
interface ScheduleRow {
  readonly id: string
  /** `null` if it cannot be read. */
  readonly schedule: StoredSchedule | null
  /** The names of the tasks of the application that wrote it last. */
  readonly tasks: readonly string[]
  readonly next: number | null
  readonly last: number | null
  readonly lastId: string | null
  readonly skipped: number
}

/** The changes that taking over schedules has made. */
interface Takeover {
  readonly removed: ScheduleRow[]
  readonly changed: Array<{ id: string, next: number | null }>
}

/** A run that was not stored. */
interface SkippedRun {
  readonly schedule: StoredSchedule
  readonly due: number
  readonly lastId: string
}

/** The table of schedules. Call methods that write inside a transaction. */
export class ScheduleTable {
  readonly #tasks: TaskTable
  readonly #all: Statement
  readonly #put: Statement
  readonly #remove: Statement
  readonly #ran: Statement

  constructor (connection: Connection, tasks: TaskTable) {
    this.#tasks = tasks
    this.#all = connection.prepare('SELECT id, schedule, tasks, CAST(next AS REAL) AS next, CAST(last AS REAL) AS last, last_id, CAST(skipped AS REAL) AS skipped FROM schedules')
    this.#put = connection.prepare(`INSERT INTO schedules (id, schedule, tasks, next) VALUES (?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET schedule = excluded.schedule, tasks = excluded.tasks, next = excluded.next`)
    this.#remove = connection.prepare('DELETE FROM schedules WHERE id = ?')
    this.#ran = connection.prepare('UPDATE schedules SET next = ?, last = ?, last_id = ?, skipped = ? WHERE id = ?')
  }

  all (): Map<string, ScheduleRow> {
    return new Map(this.#all.all().map(({ id, schedule, tasks, next, last, last_id: lastId, skipped }) => [id, {
      id, schedule: scheduleOf(schedule as string), tasks: namesOf(tasks as string), next, last, lastId, skipped
    } as ScheduleRow] as [string, ScheduleRow]))
  }

  /** Makes schedules those of the application with these tasks. */
  takeOver (schedules: readonly StoredSchedule[], tasks: readonly string[], now: number): Takeover {
    const rows = this.all()
    const ids = new Set(schedules.map(({ id }) => id))
    const removed = [...rows.values()].filter(row => !ids.has(row.id) && row.tasks.some(name => tasks.includes(name)))
    for (const { id } of removed) this.#remove.run(id)
    const changed = []
    for (const schedule of schedules) {
      const { id, rule } = schedule
      const row = rows.get(id)
      const isKept = row !== undefined && hasRule(row, schedule)
      // The last due time may be one of the new rule, too, and in the future by this clock.
      const next = isKept ? row.next : dueTimesOf(rule).next(Math.max(now, row?.last ?? 0))
      if (row !== undefined && !isKept) changed.push({ id, next })
      this.#put.run(id, JSON.stringify(schedule), JSON.stringify(tasks), next)
    }
    return { removed, changed }
  }

  /** Stores the run of a schedule for the last due time that has come, and its next due time. Returns a run that is skipped. */
  run ({ schedule, skipped, lastId }: ScheduleRow & { schedule: StoredSchedule }, times: DueTimes, now: number): SkippedRun | null {
    const task = { id: randomUUID(), ...schedule.task }
    const due = times.latest(now) as number
    const id = this.#tasks.insert(task, JSON.stringify(task), dueIn(task.delay, now), now)
    const isStored = id === task.id
    this.#ran.run(times.next(now), due, isStored ? id : lastId, isStored ? skipped : skipped + 1, schedule.id)
    return isStored ? null : { schedule, due, lastId: id }
  }
}

/** A stored schedule; `null` if it cannot be read, because a human has written it. */
function scheduleOf (text: string): StoredSchedule | null {
  const schedule = parse(text) as StoredSchedule | null | undefined
  return schedule?.rule != null && schedule.task != null ? schedule : null
}

function namesOf (text: string): string[] {
  const names = parse(text)
  return Array.isArray(names) ? names : []
}

/** Whether a row has the rule of a schedule. */
function hasRule (row: ScheduleRow, { rule }: StoredSchedule): row is ScheduleRow & { schedule: StoredSchedule } {
  return row.schedule !== null && isSameRule(row.schedule.rule, rule)
}

/**
 * Stores the runs of schedules when they are due, each once among all processes with the file: a due time is compared with that of the row,
 * in the transaction that stores its run. Sleeps from one due time to the next. Made with the worker, ends with it.
 */
export class SqliteSchedules {
  readonly #connection: Connection
  readonly #table: ScheduleTable
  readonly #log: FastifyBaseLogger
  readonly #stored: () => void
  readonly #schedules: ReadonlyArray<readonly [StoredSchedule, DueTimes]>
  readonly #alarm = new Alarm(() => { this.#run() })
  readonly #troubles = new Troubles()
  #paused = false

  /** @param stored called when runs have been stored */
  constructor (connection: Connection, table: ScheduleTable, schedules: readonly StoredSchedule[], log: FastifyBaseLogger, stored: () => void) {
    this.#connection = connection
    this.#table = table
    this.#log = log
    this.#stored = stored
    this.#schedules = schedules.map(schedule => [schedule, dueTimesOf(schedule.rule)])
  }

  async start (tasks: readonly string[]): Promise<void> {
    const schedules = this.#schedules.map(([schedule]) => schedule)
    const { removed, changed } = await this.#connection.write(() => this.#table.takeOver(schedules, tasks, Date.now()))
    for (const { id, schedule } of removed) logRemoved(this.#log, id, schedule?.task.label ?? '')
    for (const { id, next } of changed) logChanged(this.#log, id, next)
    if (schedules.length !== 0) await this.#run()
  }

  async #run (): Promise<void> {
    if (this.#paused) return
    try {
      const now = Date.now()
      const skipped = await this.#connection.write(() => this.#runDue(now))
      for (const { schedule, due, lastId } of skipped) logSkipped(this.#log, schedule, due, lastId)
      this.#stored()
      const next = await this.#connection.read(() => this.#next(now))
      this.#wait(next)
    } catch (err) {
      if (this.#paused) return
      if (this.#troubles.isNew((err as Error).message)) this.#log.warn({ err }, 'SQLite: the runs of schedules could not be stored')
      this.#wait(Date.now() + RETRY_DELAY_MS)
    }
  }

  #wait (time: number): void {
    if (!this.#paused) this.#alarm.set(time)
  }

  #runDue (now: number): SkippedRun[] {
    return this.#rows().map(({ row, times }) => row === null || row.next === null || row.next > now ? null : this.#table.run(row, times, now))
      .filter(skipped => skipped !== null)
  }

  /** The time of the next look: where another rule is in force, when this one would be due, since it may have come back by then. */
  #next (now: number): number {
    return Math.min(...this.#rows().map(({ row, times }) => (row === null ? times.next(now) : row.next) ?? Infinity))
  }

  /** The rows of the schedules; `null` without the rule of this process: one that was started later has changed or removed it. */
  #rows (): Array<{ row: ScheduleRow & { schedule: StoredSchedule } | null, times: DueTimes }> {
    const rows = this.#table.all()
    return this.#schedules.map(([schedule, times]) => {
      const row = rows.get(schedule.id)
      return { row: row !== undefined && hasRule(row, schedule) ? row : null, times }
    })
  }

  pause (): void {
    this.#paused = true
    this.#alarm.clear()
  }

  resume (): void {
    this.#paused = false
    this.#run()
  }
}

/** The state of the schedules with these ids, as far as there are rows. */
export function statesOf (rows: ReadonlyMap<string, ScheduleRow>, ids: readonly string[]): ScheduleState[] {
  return ids.flatMap(id => {
    const row = rows.get(id)
    if (row === undefined || row.schedule === null) return []
    const { schedule: { rule, task: { name: task } }, next, last, lastId, skipped } = row
    return [{ id, task, rule, next, last, lastId, skipped }]
  })
}
