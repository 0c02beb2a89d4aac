import type { ScheduleState } from '../../types/backend'
import type { ScheduleInfo } from '../../types/schedule'
import type { TaskHandle } from '../../types/task'
import type { AppTasks } from '../collect/app-tasks'
import type { Engine } from '../run/engine'
import type { ScheduleSettings } from '../run/settings'
import { FST_BGT_UNKNOWN_SCHEDULE } from '../shared/errors'
import { received } from '../shared/show'
import type { Store } from '../store/store'
import { LocalSchedules } from './local'
import { dedupeOf, durableSchedules, toStoredSchedule } from './options'

/** The schedules of one registration: those of the backend, and those of this process. Made at registration. */
export class Schedules {
  readonly #engine: Engine
  readonly #app: AppTasks
  readonly #store: Store | null
  readonly #durable: readonly ScheduleSettings[]
  readonly #local: LocalSchedules

  constructor (engine: Engine, app: AppTasks, store: Store | null) {
    this.#engine = engine
    this.#app = app
    this.#store = store
    const { settings } = engine
    this.#durable = durableSchedules(settings)
    const local = [...settings.schedules.values()].filter(schedule => !this.#durable.includes(schedule))
    this.#local = new LocalSchedules(local, schedule => app.addRun(schedule, null), engine.report)
  }

  /** Whether this process has due times of its own. */
  get isLocal (): boolean {
    return this.#engine.settings.mode === 'run' && this.#local.size !== 0
  }

  /**
   * Starts the due times of this process, and lets the backend store the runs of its own, if this process is a worker of it.
   * @throws FST_BGT_BACKEND_FAILED
   */
  async start (): Promise<void> {
    const { tasks, workerConcurrency } = this.#engine.settings
    // Also without schedules: those of before are removed.
    if (workerConcurrency !== 0) await this.#store?.schedule(this.#durable.map(toStoredSchedule), [...tasks.keys()])
    if (this.isLocal) this.#local.start()
  }

  stop (): void {
    this.#local.stop()
  }

  /** See `AppBackgroundTasks.schedules`. */
  async states (): Promise<ScheduleInfo[]> {
    const ids = this.#durable.map(({ id }) => id)
    const stored = new Map((ids.length === 0 ? [] : await this.#store!.schedules(ids)).map(state => [state.id, state]))
    return Array.from(this.#engine.settings.schedules.values(), settings => infoOf(this.#stateOf(settings, stored)))
  }

  #stateOf (settings: ScheduleSettings, stored: ReadonlyMap<string, ScheduleState>): ScheduleState {
    const { id, task: { name: task }, rule } = settings
    const local = this.#local.get(id)
    if (local === undefined) return stored.get(id) ?? { id, task, rule, next: null, last: null, lastId: null, skipped: 0 }
    const { last, lastId, skipped } = local
    return { id, task, rule, next: local.upcoming(), last, lastId, skipped }
  }

  /** See `AppBackgroundTasks.runSchedule`. */
  async run (id: string): Promise<TaskHandle | null> {
    const { schedules } = this.#engine.settings
    const settings = schedules.get(id)
    if (settings === undefined) throw new FST_BGT_UNKNOWN_SCHEDULE(received(id), received([...schedules.keys()]))
    const local = this.#local.get(id)
    // A captured task never settles before the end of the test.
    if (this.#engine.settings.mode === 'capture') return this.#app.addRun(settings, null)
    if (local !== undefined) return local.run()
    const task = this.#app.addRun(settings, dedupeOf(id, settings.overlap))
    await this.#app.stored(task)
    return task.state === 'dropped' ? null : task
  }
}

function infoOf ({ id, task, rule, next, last, lastId, skipped }: ScheduleState): ScheduleInfo {
  return { id, task, ...rule, next: dateOf(next), last: dateOf(last), lastId, skipped }
}

function dateOf (time: number | null): Date | null {
  return time === null ? null : new Date(time)
}
