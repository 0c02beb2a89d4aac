import { useEffect, useRef, useState } from 'preact/hooks'
import type { ListName, Overview, TaskPage, TaskView } from '../protocol'
import { GroupActions } from './failures'
import { go, usePolled } from './hooks'
import { ago, due, duration, number, plural } from './model/format'
import { addressOf, listRoute, type ListRoute, TITLES } from './model/route'
import { stillList } from './model/still'
import { isStuck, Progress, TaskLink, whereOf } from './parts'
import { server } from './server'
import { TaskActions } from './task-actions'

/** Tasks in a part of a list. */
const PAGE = 50
/** Milliseconds after the last key, until it is searched. */
const TYPING_MS = 300

/** The order of the rows. */
const SORTED_BY: Record<ListName, { label: string, oldest: string, newest: string }> = {
  running: { label: 'Order', oldest: 'oldest first', newest: 'newest first' },
  waiting: { label: 'Order', oldest: 'oldest first', newest: 'newest first' },
  // The backend has them by the time at which they are due, this process by that of their adds.
  later: { label: 'Order', oldest: 'next or oldest first', newest: 'last or newest first' },
  failed: { label: 'Failed', oldest: 'oldest first', newest: 'newest first' },
  completed: { label: 'Completed', oldest: 'oldest first', newest: 'newest first' }
}

export function ListPage ({ route, overview, now }: { route: ListRoute, overview: Overview, now: number }) {
  const { list, search, group, offset, newestFirst } = route
  const key = addressOf(route)
  const { answer: latest, trouble, ask } = usePolled(key, () => server.list(route))
  const [shown, setShown] = useState<{ key: string, page: TaskPage } | null>(null)
  // Rows stand still while one reads: only an empty list fills by itself.
  useEffect(() => {
    if (latest !== undefined && (shown === null || shown.key !== key || shown.page.tasks.length === 0)) setShown({ key, page: latest })
  }, [latest, key])
  const page = shown?.key === key ? shown.page : latest
  const known = group === '' ? undefined : overview.failures.groups.find(({ id }) => id === group)
  const total = search === '' && group === '' ? overview.totals[list as keyof Overview['totals']] ?? overview.backend?.counts?.completed ?? 0 : null
  // Completed tasks are kept by a backend only.
  const isKept = list !== 'completed' || overview.backend !== null
  return (
    <section id='list' aria-labelledby='list-title'>
      <div class='list-head'>
        <h2 id='list-title'>{TITLES[list]} {total !== null && isKept && <span class='count'>{number(total)}</span>}</h2>
        <SearchBox key={list} route={route} />
        <label class='sort'>
          <span>{SORTED_BY[list].label}</span>
          <select value={newestFirst ? 'newest' : 'oldest'} onChange={event => go({ ...route, offset: 0, newestFirst: event.currentTarget.value === 'newest' })}>
            <option value='oldest'>{SORTED_BY[list].oldest}</option>
            <option value='newest'>{SORTED_BY[list].newest}</option>
          </select>
        </label>
      </div>
      {group !== '' && (
        <p class='bar'>
          <span>{known === undefined ? 'One group of failures, which is not among the newest any more.' : <>{number(known.count)} × “{known.name}”: {known.error}</>}</span>
          {known !== undefined && <GroupActions group={known} />}
          <a href={addressOf(listRoute(list))}>All that has failed</a>
        </p>
      )}
      {trouble !== '' && <p class='trouble' role='alert'>The list could not be read: {trouble}</p>}
      {page === undefined
        ? trouble === '' && <p class='more'>Reading …</p>
        : <Rows route={route} page={page} latest={latest ?? page} now={now} stuckAfter={overview.stuckAfter} onRefresh={() => setShown(latest === undefined ? null : { key, page: latest })} onDone={ask} />}
      {page !== undefined && <Pages route={route} page={page} total={total} />}
      {page !== undefined && offset !== 0 && page.tasks.length === 0 && <p class='more'>Nothing is left here. <a href={addressOf({ ...route, offset: 0 })}>To the first page</a></p>}
    </section>
  )
}

function SearchBox ({ route }: { route: ListRoute }) {
  const [text, setText] = useState(route.search)
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined)
  useEffect(() => { setText(route.search) }, [route.search])
  useEffect(() => () => clearTimeout(timer.current), [])
  const search = (value: string) => {
    clearTimeout(timer.current)
    if (value.trim() !== route.search) go({ ...route, search: value.trim(), offset: 0 }, true)
  }
  return (
    <form role='search' onSubmit={event => { event.preventDefault(); search(text) }}>
      <input
        type='search' aria-label='Search by name, request or id' placeholder='Name, request or id' value={text}
        onInput={event => {
          const { value } = event.currentTarget
          setText(value)
          clearTimeout(timer.current)
          timer.current = setTimeout(() => search(value), TYPING_MS)
        }}
      />
    </form>
  )
}

interface RowsProps {
  route: ListRoute
  page: TaskPage
  latest: TaskPage
  now: number
  stuckAfter: number
  onRefresh: () => void
  onDone: () => void
}

function Rows ({ route, page, latest, now, stuckAfter, onRefresh, onDone }: RowsProps) {
  const { rows, fresh, gone } = stillList(page, latest)
  const changed = [fresh !== 0 && plural(fresh, 'new task', 'new tasks'), gone !== 0 && `${number(gone)} gone`].filter(Boolean).join(', ')
  const { list, search, group } = route
  const isFiltered = search !== '' || group !== ''
  return (
    <>
      <p id='changes' role='status' class={changed === '' ? 'unseen' : 'bar'}>{changed !== '' && <><span>{changed}</span> <button type='button' onClick={onRefresh}>Show the list as it is now</button></>}</p>
      {rows.length === 0
        ? (page.note === '' || list !== 'completed') && <p class='more' id='empty'>{isFiltered ? 'Nothing found' : list === 'completed' ? 'None' : `Nothing ${{ running: 'runs', waiting: 'waits', later: 'is to be tried again, or delayed', failed: 'has failed' }[list]}`}.</p>
        : (
          <ul class='card rows'>
            {rows.map(({ task, gone }) => <Row key={task.id} task={task} gone={gone} list={list} now={now} stuckAfter={stuckAfter} onDone={onDone} />)}
          </ul>
          )}
      {page.note !== '' && <p class='more'>{page.note}</p>}
    </>
  )
}

function Row ({ task, gone, list, now, stuckAfter, onDone }: { task: TaskView, gone: boolean, list: ListName, now: number, stuckAfter: number, onDone: () => void }) {
  const stuck = isStuck(task, now, stuckAfter)
  const isLate = LATE.includes(task.state) && task.since !== null && now - task.since > stuckAfter
  return (
    <li data-gone={gone} data-stuck={stuck && !gone} data-late={isLate && !gone}>
      <span class='what'>
        <TaskLink task={task} />
        <span class='where'>{whereOf(task)}</span>
        {gone ? <span class='why'>It is not in this list any more.</span> : <Notes task={task} isStuck={stuck} />}
      </span>
      <span class='when'>
        <span class='for'>{stuck && !gone && 'stuck, '}{gone ? '' : timeOf(task, now)}</span>
        {task.attempt !== 0 && (task.attempts > 1 || list === 'later') && <span class='where'>{attemptOf(task)}</span>}
      </span>
      {gone ? <span class='actions' /> : <TaskActions task={task} onDone={onDone} />}
    </li>
  )
}

const LATE = ['waiting', 'collecting']

function attemptOf ({ state, attempt, attempts }: TaskView): string {
  const isBetween = state === 'waiting' || state === 'retrying'
  return isBetween ? `${number(attempt)} of ${plural(attempts, 'attempt', 'attempts')} failed` : `attempt ${number(attempt)} of ${number(attempts)}`
}

function Notes ({ task, isStuck }: { task: TaskView, isStuck: boolean }) {
  const { name, state, progress, why, behind, error } = task
  if (state === 'running') {
    return (
      <>
        <Progress name={name} progress={progress} />
        {behind > 0 && <span class='why'>{plural(behind, 'task of its request waits', 'tasks of its request wait')} for it.</span>}
        {isStuck && why !== '' && <span class='why'>{why}</span>}
      </>
    )
  }
  return (
    <>
      {(state === 'failed' || state === 'waiting') && error !== null && <span class='error'>{error}</span>}
      {why !== '' && <span class='why'>{why}</span>}
    </>
  )
}

/** The order of the rows. */
function timeOf ({ state, since, due: dueAt }: TaskView, now: number): string {
  if (state === 'delayed' || state === 'retrying') return due(dueAt, now)
  if (state === 'failed' || state === 'completed' || state === 'cancelled') return ago(since, now)
  return since === null ? '–' : duration(now - since)
}

function Pages ({ route, page: { tasks, next, looked }, total }: { route: ListRoute, page: TaskPage, total: number | null }) {
  const { offset } = route
  const isMore = next !== null && (total === null || next < total)
  if (offset === 0 && !isMore) return null
  const isSearch = total === null
  return (
    <nav class='pages' aria-label='Parts of the list'>
      {offset !== 0 && <a href={addressOf({ ...route, offset: isSearch ? 0 : Math.max(offset - PAGE, 0) })}>{isSearch ? '← From the start' : '← Previous'}</a>}
      <span class='count'>{isSearch ? `${number(tasks.length)} found among the ${offset === 0 ? 'first' : 'next'} ${plural(looked, 'task', 'tasks')}` : `${number(offset + 1)}–${number(offset + tasks.length)} of ${number(total)}`}</span>
      {isMore && <a href={addressOf({ ...route, offset: next })}>{isSearch ? 'Search further →' : 'Next →'}</a>}
    </nav>
  )
}
