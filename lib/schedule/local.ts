import type { Report } from '../observe/report'
import type { ScheduleSettings } from '../run/settings'
import { Alarm } from '../shared/alarm'
import { type DueTimes, dueTimesOf } from '../shared/rule'
import type { Task } from '../task/task'

/** Adds a run of a schedule to the application's tasks. */
export type AddRun = (schedule: ScheduleSettings) => Task

/** A schedule whose runs stay in this process. */
export class LocalSchedule {
  readonly settings: ScheduleSettings
  readonly #times: DueTimes
  readonly #addRun: AddRun
  /** The last run that was added, due or not. */
  #run: Task | null = null
  /** In ms of `Date.now()`, as {@link last}; `null` for never. */
  next: number | null = null
  last: number | null = null
  lastId: string | null = null
  skipped = 0

  constructor (settings: ScheduleSettings, addRun: AddRun) {
    this.settings = settings
    this.#times = dueTimesOf(settings.rule)
    this.#addRun = addRun
  }

  /** The due times begin now: those that were missed are not made up for. */
  start (): void {
    this.next = this.upcoming()
  }

  upcoming (): number | null {
    return this.next ?? this.#times.next(Date.now())
  }

  /** Adds a run, unless the last one has not settled and they may not overlap. */
  run (): Task | null {
    if (!this.settings.overlap && this.#run !== null && !this.#run.isSettled) return null
    this.#run = this.#addRun(this.settings)
    return this.#run
  }

  /** Adds a run for the last due time that has come. */
  runIfDue (now: number, report: Report): void {
    if (this.next === null || now < this.next) return
    const due = this.#times.latest(now) as number
    this.last = due
    this.next = this.#times.next(now)
    try {
      const task = this.run()
      if (task !== null) {
        this.lastId = task.id
        return
      }
      this.skipped++
      report.runSkipped(this.settings, due, (this.#run as Task).id)
    } catch (error) {
      report.runRefused(this.settings, due, error)
    }
  }
}

/** The schedules of this process, with one timer for all. Made at registration; runs from the start of the application to its close. */
export class LocalSchedules {
  readonly #schedules: ReadonlyMap<string, LocalSchedule>
  readonly #report: Report
  readonly #alarm = new Alarm(() => this.#ring())

  constructor (schedules: readonly ScheduleSettings[], addRun: AddRun, report: Report) {
    this.#schedules = new Map(schedules.map(settings => [settings.id, new LocalSchedule(settings, addRun)]))
    this.#report = report
  }

  get size (): number {
    return this.#schedules.size
  }

  get (id: string): LocalSchedule | undefined {
    return this.#schedules.get(id)
  }

  start (): void {
    for (const schedule of this.#schedules.values()) schedule.start()
    this.#wait()
  }

  stop (): void {
    for (const schedule of this.#schedules.values()) schedule.next = null
    this.#wait()
  }

  #ring (): void {
    const now = Date.now()
    for (const schedule of this.#schedules.values()) schedule.runIfDue(now, this.#report)
    this.#wait()
  }

  #wait (): void {
    this.#alarm.set(Math.min(...Array.from(this.#schedules.values(), ({ next }) => next ?? Infinity)))
  }
}
