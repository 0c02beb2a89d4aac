import type { ScheduleView } from '../protocol'
import { usePolled } from './hooks'
import { ago, due, interval, plural } from './model/format'
import { addressOf } from './model/route'
import { Action } from './parts'
import { server } from './server'

/** The schedules of the application: the rule, the next and the last due time, and a button that runs the task now. */
export function SchedulesPage ({ now }: { now: number }) {
  const { answer: schedules, trouble, ask } = usePolled('schedules', () => server.schedules())
  return (
    <section id='schedules' aria-labelledby='schedules-title'>
      <h2 id='schedules-title'>Schedules</h2>
      {trouble !== '' && <p class='more'>The schedules could not be read: {trouble}</p>}
      {schedules === undefined
        ? trouble === '' && <p class='more'>…</p>
        : schedules.length === 0
          ? <p class='more' id='empty'>The application has no schedules.</p>
          : <ul class='card rows'>{schedules.map(schedule => <Row key={schedule.id} schedule={schedule} now={now} onDone={ask} />)}</ul>}
    </section>
  )
}

function Row ({ schedule: { id, task, cron, timezone, every, next, last, lastId, skipped }, now, onDone }: { schedule: ScheduleView, now: number, onDone: () => void }) {
  async function run (): Promise<string> {
    const { done } = await server.runSchedule(id)
    onDone()
    return done ? `“${id}” runs now.` : `“${id}” was not run: its last run has not settled, or the application closes.`
  }
  return (
    <li>
      <span class='what'>
        <span class='name'>{id}</span>
        <span class='where'>{every === null ? <><code>{cron}</code> in {timezone}</> : interval(every)}{task !== id && `, task ${task}`}</span>
        {skipped !== 0 && <span class='why late'>{plural(skipped, 'run was', 'runs were')} skipped, since the run before had not ended.</span>}
      </span>
      <span class='when'>
        <span class='for' title={next === null ? undefined : new Date(next).toLocaleString()}>{next === null ? 'not due' : due(next, now)}</span>
        <span class='where'>{last === null ? 'has not been due' : `was due ${ago(last, now)}`}{lastId !== null && <> · <a href={addressOf({ page: 'task', id: lastId })}>newest run</a></>}</span>
      </span>
      <span class='actions'><Action label='Run now' title={`Run ${id} now`} act={run} /></span>
    </li>
  )
}
