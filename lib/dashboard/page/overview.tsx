import type { Overview } from '../protocol'
import { Failures } from './failures'
import { duration, number, plural, rate } from './model/format'
import { addressOf, listRoute } from './model/route'
import { summaryOf } from './model/summary'
import { Action, isStuck, Progress, TaskLink, whereOf } from './parts'
import { Plots } from './plots'
import { server } from './server'

const SHOWN_NAMES = 8

/** The first screen: what is stuck and why, how much there is, and what has failed, with any number of tasks. */
export function OverviewPage ({ overview, now }: { overview: Overview, now: number }) {
  return (
    <>
      <SummaryBox overview={overview} now={now} />
      <Tiles overview={overview} />
      <Worker overview={overview} />
      <Schedules overview={overview} />
      <Plots series={server.seconds.series(overview.now)} />
      <Failures overview={overview} now={now} />
      <div class='columns'>
        <LongestRunning overview={overview} now={now} />
        <WaitingByName overview={overview} />
      </div>
    </>
  )
}

function SummaryBox ({ overview, now }: { overview: Overview, now: number }) {
  const { mood, headline, reason, task } = summaryOf(overview, now)
  return (
    <div id='summary' data-mood={mood}>
      <p><span id='headline'>{headline}</span>{task !== null && <> <a href={addressOf({ page: 'task', id: task.id })}>Open the task</a></>}</p>
      <p id='reason'>{reason}</p>
    </div>
  )
}

function Tiles ({ overview: { totals, backend, now: heard } }: { overview: Overview }) {
  const perSecond = rate(server.seconds.rate(heard))
  return (
    <nav class='tiles' aria-label='Lists of tasks'>
      <Tile id='running' title='Running' href={addressOf(listRoute('running'))} value={number(totals.running)} />
      <Tile id='waiting' title='Waiting' href={addressOf(listRoute('waiting'))} value={number(totals.waiting)} />
      <Tile id='later' title='Later: tried again or delayed' href={addressOf(listRoute('later'))} value={number(totals.later)} />
      <Tile id='failed' title='Failed' href={addressOf(listRoute('failed'))} value={number(totals.failed)} bad={totals.failed !== 0} />
      <Tile
        id='rate' title='Completed/s, this process' href={addressOf(listRoute('completed'))} value={perSecond}
        note={backend?.counts == null ? '' : `${number(backend.counts.completed)} kept`}
      />
    </nav>
  )
}

function Tile ({ id, title, href, value, note = '', bad = false }: { id: string, title: string, href: string, value: string, note?: string, bad?: boolean }) {
  return (
    <a class='tile' id={`tile-${id}`} href={href} data-bad={bad}>
      <span class='title'>{title}</span>
      <span class='value'>{value}{note !== '' && <small>{note}</small>}</span>
    </a>
  )
}

/** Whether this process takes tasks of the backend. */
function Worker ({ overview: { backend, worker } }: { overview: Overview }) {
  if (backend === null) return null
  const { name } = backend
  const text = worker === null
    ? `This process adds tasks to ${name}, and takes none.`
    : worker.paused ? `This process is paused: it takes no tasks of ${name}.` : `This process takes tasks of ${name}.`
  const listed = backend.counts !== null || backend.error !== null ? '' : ` ${name} gives no list of its tasks, or has not answered yet.`
  return (
    <p id='worker' class='bar'>
      <span>{text}{listed}</span>
      {worker?.pausable === true && (worker.paused
        ? <Action key='resume' label='Resume' title='Resume this process' act={async () => await server.worker('resume') ? `This process takes tasks of ${name} again.` : 'This process could not be resumed: the application closes.'} />
        : <Action key='pause' label='Pause this process' title='Pause this process' question='Take no more tasks? Those that run go on.' yes='Yes, pause' act={async () => await server.worker('pause') ? 'This process is paused. Other processes go on.' : 'This process could not be paused: the application closes.'} quiet />)}
    </p>
  )
}

function Schedules ({ overview: { schedules } }: { overview: Overview }) {
  if (schedules === 0) return null
  return <p class='bar'><a href={addressOf({ page: 'schedules' })}>{plural(schedules, 'schedule', 'schedules')}</a></p>
}

function LongestRunning ({ overview: { longest, stuckAfter, totals }, now }: { overview: Overview, now: number }) {
  return (
    <section id='longest' aria-labelledby='longest-title'>
      <h2 id='longest-title'>Running longest {totals.running > longest.length && <a class='count' href={addressOf(listRoute('running'))}>all {number(totals.running)}</a>}</h2>
      {longest.length === 0
        ? <p class='more'>Nothing runs.</p>
        : (
          <ul class='card'>
            {longest.map(task => (
              <li key={task.id} data-stuck={isStuck(task, now, stuckAfter)}>
                <span class='what'>
                  <TaskLink task={task} />
                  <span class='where'>{whereOf(task)}</span>
                  <Progress name={task.name} progress={task.progress} />
                </span>
                <span class='for'>{isStuck(task, now, stuckAfter) && 'stuck, '}{task.since === null ? '–' : duration(now - task.since)}</span>
              </li>
            ))}
          </ul>
          )}
    </section>
  )
}

function WaitingByName ({ overview: { waiting: { groups, of, more }, totals } }: { overview: Overview }) {
  const shown = groups.slice(0, SHOWN_NAMES)
  const others = groups.length - shown.length + more
  const most = Math.max(...shown.map(({ count }) => count), 1)
  return (
    <section id='names' aria-labelledby='names-title'>
      <h2 id='names-title'>Waiting, by name {totals.waiting > of && of !== 0 && <span class='count'>of the {number(of)} that wait longest</span>}</h2>
      {shown.length === 0
        ? <p class='more'>{totals.waiting === 0 ? 'Nothing waits.' : 'They are being counted …'}</p>
        : (
          <ul class='card'>
            {shown.map(({ name, count }) => (
              <li key={name}>
                <span class='what'>
                  <a class='name' href={addressOf(listRoute('waiting', { search: `"${name}"` }))}>{name}</a>
                  <meter min={0} max={most} value={count} aria-label={`Waiting tasks named ${name}`} />
                </span>
                <span class='for'>{number(count)}</span>
              </li>
            ))}
          </ul>
          )}
      {others !== 0 && <p class='more'><a href={addressOf(listRoute('waiting'))}>and {plural(others, 'more name', 'more names')}</a></p>}
    </section>
  )
}
