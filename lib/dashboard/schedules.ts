import type { AppBackgroundTasks } from '../../types/collector'
import type { ScheduleView } from './protocol'

/** The schedules of the application, in the order of its options. */
export async function scheduleViews (app: AppBackgroundTasks): Promise<ScheduleView[]> {
  const schedules = await app.schedules()
  return schedules.map(schedule => ({ ...schedule, next: schedule.next?.getTime() ?? null, last: schedule.last?.getTime() ?? null }))
}
