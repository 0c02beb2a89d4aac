import { useEffect, useRef, useState } from 'preact/hooks'
import type { Overview } from '../protocol'
import { useRoute, useServer } from './hooks'
import { ListPage } from './list'
import { number } from './model/format'
import { addressOf, LISTS, listRoute, type Route, TITLES } from './model/route'
import { OverviewPage } from './overview'
import { Outcome } from './parts'
import { SchedulesPage } from './schedules'
import { TaskScreen } from './task'

/** Milliseconds between two announcements of failures: a screen reader would say nothing else. */
const ANNOUNCE_MS = 10_000

export function App () {
  const { overview, now, trouble, heard } = useServer()
  const route = useRoute()
  const isStale = trouble !== '' && overview !== null
  const shown = trouble !== '' && heard !== 0 ? `${trouble} What is shown is from ${new Date(heard).toLocaleTimeString()}.` : trouble
  return (
    <div id='page' data-stale={isStale}>
      <header>
        <h1><a href='#/'>Background tasks</a></h1>
        <p id='connection' role='status' data-live={trouble === ''} data-lost={isStale}>{trouble === '' ? 'Live' : shown}</p>
        {route.page !== 'overview' && overview !== null && <Tabs route={route} overview={overview} />}
      </header>
      <main>
        {overview === null ? <p class='more'>…</p> : <Screen route={route} overview={overview} now={now} />}
      </main>
      <Outcome />
      <News overview={overview} />
    </div>
  )
}

function Screen ({ route, overview, now }: { route: Route, overview: Overview, now: number }) {
  useEffect(() => {
    document.title = titleOf(route)
  }, [route])
  switch (route.page) {
    case 'overview': return <OverviewPage overview={overview} now={now} />
    case 'list': return <ListPage route={route} overview={overview} now={now} />
    case 'schedules': return <SchedulesPage now={now} />
    case 'task': return <TaskScreen key={route.id} id={route.id} overview={overview} now={now} />
  }
}

/** The name of the window, which tells tabs of the browser apart. */
function titleOf (route: Route): string {
  switch (route.page) {
    case 'overview': return 'Background tasks'
    case 'list': return `${TITLES[route.list]} – Background tasks`
    case 'schedules': return 'Schedules – Background tasks'
    case 'task': return `Task ${route.id} – Background tasks`
  }
}

function Tabs ({ route, overview: { totals, schedules } }: { route: Route, overview: Overview }) {
  return (
    <nav class='tabs' aria-label='Lists of tasks'>
      <a href='#/'>Overview</a>
      {LISTS.map(list => (
        <a key={list} href={addressOf(listRoute(list))} aria-current={route.page === 'list' && route.list === list ? 'page' : undefined}>
          {list === 'later' ? 'Later' : TITLES[list]} {list !== 'completed' && totals[list] !== 0 && <span class='count'>{number(totals[list])}</span>}
        </a>
      ))}
      {schedules !== 0 && <a href={addressOf({ page: 'schedules' })} aria-current={route.page === 'schedules' ? 'page' : undefined}>Schedules <span class='count'>{number(schedules)}</span></a>}
    </nav>
  )
}

/** Says aloud what has failed since the last time. */
function News ({ overview }: { overview: Overview | null }) {
  const [text, setText] = useState('')
  const told = useRef<{ failed: number, at: number } | null>(null)
  useEffect(() => {
    if (overview === null) return
    const { totals: { failed }, failures: { groups: [newest] } } = overview
    if (told.current === null || failed < told.current.failed) told.current = { failed, at: 0 }
    else if (failed > told.current.failed && Date.now() - told.current.at > ANNOUNCE_MS) {
      const count = failed - told.current.failed
      setText(count === 1 && newest !== undefined ? `Failed: ${newest.name}: ${newest.error}` : `${number(count)} tasks have failed`)
      told.current = { failed, at: Date.now() }
    }
  }, [overview])
  return <p id='news' class='unseen' aria-live='polite'>{text}</p>
}
