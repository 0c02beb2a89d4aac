import type { TaskDefinition } from './definition'

/** A task that recurs: a value of the option `schedules`. It has either `cron` or `every`. */
export interface Schedule<Payload = any> {
  /** A defined task of the option `tasks`. Its runs have the options of its definition. */
  task: TaskDefinition<Payload, unknown>
  /**
   * The payload of each run.
   * @default undefined
   */
  payload?: Payload
  /**
   * An expression of five fields, or of six with the seconds first, as croner has them: https://croner.56k.guru/usage/pattern/.
   * `'0 3 * * *'` is each night at three.
   */
  cron?: string
  /**
   * The time zone of the expression, by its IANA name.
   * @default the time zone of the process
   */
  timezone?: string
  /** Milliseconds from one run to the next, a whole number from 1,000 on. Due are the multiples of it since 1970, in UTC. */
  every?: number
  /**
   * Whether a run may begin while the last one has not settled. Without it, such a run is skipped, counted and logged.
   * @default false
   */
  overlap?: boolean
}

/** The state of a schedule, as `app.backgroundTasks.schedules()` returns it. */
export interface ScheduleInfo {
  id: string
  /** The name of the task. */
  task: string
  /** The expression; `null` with `every`. */
  cron: string | null
  /** The time zone of the expression; `null` with `every`. */
  timezone: string | null
  /** Milliseconds; `null` with `cron`. */
  every: number | null
  /** The next due time; `null` if nothing is due any more, or no process has started it yet. */
  next: Date | null
  /** The last due time that has come, whether its run was added or skipped; `null` before the first. */
  last: Date | null
  /** The id of the last run, for `find`; `null` before the first. */
  lastId: string | null
  /** Runs that were skipped because the last one had not settled: with a backend since the schedule is there, else since the start. */
  skipped: number
}
