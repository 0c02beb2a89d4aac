/* The page's script, as the browser gets it. Whatever comes from a task goes into the document as text, never as markup. */

export const SCRIPT = String.raw`'use strict'

const SECONDS = 300
const KEPT_FAILURES = 200
/** Milliseconds after which the page does not call itself live any more: a server that is too busy to speak does not hang up. */
const SILENCE = 5000
/** Milliseconds between two announcements of failures, and for which the outcome of an action is shown. */
const PAUSE = 10000
const byId = id => document.getElementById(id)

let state = null
/** How far the server's clock is ahead of this one's, in ms. */
let ahead = 0
/** When the server was last heard, by this clock. */
let heard = Date.now()
const seconds = new Map()
const failures = new Map()
const rows = new Map()
const items = new Map()

const now = () => Date.now() + ahead

function create (tag, className, text) {
  const element = document.createElement(tag)
  if (className) element.className = className
  if (text !== undefined) element.textContent = text
  return element
}

/** It may be long: then it is scrolled, also by the keyboard. */
function createText (text) {
  const pre = create('pre', '', text)
  pre.tabIndex = 0
  return pre
}

/** Changes only what is different: a screen reader, a selection and the focus stay where they are. */
function setText (element, text) {
  if (element.textContent !== text) element.textContent = text
}

function plural (count, one, many) {
  return count.toLocaleString('en') + ' ' + (count === 1 ? one : many)
}

function duration (ms) {
  if (ms === null) return '–'
  const s = Math.max(0, ms) / 1000
  if (s < 1) return '< 1 s'
  if (s < 60) return Math.floor(s) + ' s'
  if (s < 3600) return Math.floor(s / 60) + ' min ' + Math.floor(s % 60) + ' s'
  if (s < 86400) return Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min'
  return Math.floor(s / 86400) + ' d ' + Math.floor(s % 86400 / 3600) + ' h'
}

const ageOf = task => task.since === null ? null : now() - task.since
const dueText = task => task.due === null ? '–' : task.due <= now() ? 'now' : 'in ' + duration(task.due - now())
const attemptText = task => task.attempt + ' of ' + task.attempts
const isOld = task => task.since !== null && ageOf(task) > state.stuckAfter
const isStuck = task => task.state === 'running' && isOld(task)
const isLate = task => groupOf(task) === 'waiting' && isOld(task)
const groupOf = task => task.state === 'running' ? 'running' : task.state === 'delayed' || task.state === 'retrying' ? 'later' : 'waiting'

function noteOf (task) {
  const notes = []
  if (task.state === 'running') {
    if (task.behind > 0) notes.push(plural(task.behind, 'task of its request waits', 'tasks of its request wait') + ' for it.')
    if (isStuck(task)) notes.push(task.why)
  } else if (task.why) {
    notes.push(task.why)
  }
  return notes.join(' ')
}

function whereOf (task) {
  return (task.requestId === null ? 'added by the application' : 'request ' + task.requestId) + (task.stored ? ', stored' : '')
}

const COLUMNS = {
  running: [['for', 'For'], ['attempt', 'Attempt'], ['progress', 'Progress'], ['why', ''], ['action', '']],
  later: [['due', 'Due'], ['attempt', 'Attempt'], ['why', ''], ['action', '']],
  waiting: [['for', 'For'], ['why', ''], ['action', '']]
}

function makeRow (task, group) {
  const tr = create('tr')
  tr.setAttribute('role', 'row')
  const head = create('th', 'task')
  head.scope = 'row'
  head.setAttribute('role', 'rowheader')
  const where = create('span', 'where')
  head.append(create('b', '', task.name), where)
  const row = { tr, group, where }
  if (task.payload !== undefined) {
    const details = create('details')
    details.append(create('summary', '', 'Payload'), createText(task.payload || 'none'))
    head.append(details)
  }
  tr.append(head)
  for (const [name, label] of COLUMNS[group]) {
    const td = create('td', name)
    td.setAttribute('role', 'cell')
    if (label) td.dataset.label = label
    tr.append(td)
    row[name] = td
  }
  row.button = create('button', '', 'Cancel')
  row.button.type = 'button'
  row.button.setAttribute('aria-label', 'Cancel ' + task.name)
  row.button.addEventListener('click', () => act(row.button, task, 'cancel'))
  return row
}

function updateRow (row, task) {
  setText(row.where, whereOf(task))
  if (row.for) setText(row.for, duration(ageOf(task)))
  if (row.due) setText(row.due, dueText(task))
  if (row.attempt) setText(row.attempt, attemptText(task))
  if (row.progress) updateProgress(row, task)
  setText(row.why, noteOf(task))
  row.tr.toggleAttribute('data-stuck', isStuck(task))
  row.tr.toggleAttribute('data-late', isLate(task))
  if (task.cancellable !== row.button.isConnected) {
    if (task.cancellable) row.action.append(row.button)
    else row.button.remove()
  }
}

function updateProgress (row, { name, progress }) {
  if (progress === null) return row.progress.replaceChildren()
  const { percent, text } = progress
  if (!row.progressText) row.progressText = create('span')
  if (percent !== null) {
    if (!row.bar) {
      row.bar = create('progress')
      row.bar.max = 100
      row.bar.setAttribute('aria-label', 'Progress of ' + name)
    }
    row.bar.value = percent
    if (!row.bar.isConnected) row.progress.prepend(row.bar)
  } else if (row.bar) {
    row.bar.remove()
  }
  setText(row.progressText, percent === null || text.length > 6 ? text : Math.round(percent) + ' %')
  if (!row.progressText.isConnected) row.progress.append(row.progressText)
}

/** Removes what has gone, then adds what is new: what stays where it was is not touched, so that it keeps the focus. That of what goes, goes to the message about it. */
function reconcile (parent, wanted, known, elementOf, make, update) {
  for (const [key, item] of known) {
    if (wanted.has(key)) continue
    const element = elementOf(item)
    if (element.contains(document.activeElement)) byId('outcome').focus({ preventScroll: true })
    element.remove()
    known.delete(key)
  }
  let next = parent.firstElementChild
  for (const [key, value] of wanted) {
    let item = known.get(key)
    if (item === undefined) known.set(key, item = make(value))
    const element = elementOf(item)
    if (element === next) next = next.nextElementSibling
    else move(parent, element, next)
    update(item, value)
  }
}

/** An element that is moved would lose the focus. */
function move (parent, element, next) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null
  parent.insertBefore(element, next)
  if (focused !== null) focused.focus({ preventScroll: true })
}

function showGroup (group, tasks, total) {
  const section = byId(group)
  if (!rows.has(group)) rows.set(group, new Map())
  reconcile(section.querySelector('tbody'), new Map(tasks.map(task => [task.id, task])), rows.get(group),
    row => row.tr, task => makeRow(task, group), updateRow)
  section.hidden = tasks.length === 0 && total === 0
  setText(section.querySelector('.count'), total.toLocaleString('en'))
  const more = section.querySelector('.more')
  more.hidden = total <= tasks.length
  if (!more.hidden) setText(more, 'and ' + (total - tasks.length).toLocaleString('en') + ' more')
}

function makeFailure (failure) {
  const li = create('li')
  const details = create('details')
  const summary = create('summary')
  const where = create('span', 'where')
  summary.append(create('b', '', failure.name), ' ', where, create('span', 'error', failure.error))
  details.append(summary, createText(failure.stack))
  if (failure.payload !== undefined) details.append(createText('Payload: ' + (failure.payload || 'none')))
  li.append(details)
  if (failure.again) {
    const button = create('button', '', 'Run again')
    button.type = 'button'
    button.setAttribute('aria-label', 'Run ' + failure.name + ' again')
    button.addEventListener('click', () => act(button, failure, 'run-again'))
    li.append(button)
  }
  return { li, where }
}

function updateFailure (item, failure) {
  const parts = [failure.requestId === null ? 'added by the application' : 'request ' + failure.requestId]
  if (failure.at !== null) parts.push(duration(now() - failure.at) + ' ago')
  parts.push('after ' + plural(failure.attempt, 'attempt', 'attempts'))
  setText(item.where, parts.join(', '))
}

function showFailures () {
  const newest = [...failures.values()].sort((a, b) => (b.at || 0) - (a.at || 0))
  // A task that has failed once more is another entry.
  const wanted = new Map(newest.map(failure => [failure.id + ' ' + failure.at, failure]))
  const section = byId('failed')
  reconcile(section.querySelector('ul'), wanted, items, item => item.li, makeFailure, updateFailure)
  section.querySelector('.more').hidden = newest.length !== 0
  setText(section.querySelector('.count'), newest.length === 0 ? '' : String(newest.length))
}

const sentences = (...parts) => parts.filter(Boolean).join(' ')
const ended = text => /[.…]$/.test(text) ? text : text + '.'

/** What is stuck and why, in the order of what is worst. */
function summarize (groups, counts) {
  const stuck = groups.running.filter(isStuck)
  const late = groups.waiting.filter(isLate)
  const retrying = groups.later.filter(task => task.state === 'retrying')
  const failed = failures.size
  const summary = byId('summary')
  const base = plural(counts.running, 'task runs', 'tasks run') + ', ' + plural(counts.waiting, 'waits', 'wait') +
    (counts.later === 0 ? '' : ', ' + plural(counts.later, 'is', 'are') + ' to be tried again or delayed')
  // What waits for a thread has its place already.
  const queued = state.counts.waiting - (state.taken - state.counts.running)
  const full = state.concurrency !== null && state.taken >= state.concurrency && queued > 0
  const places = !full ? '' : (state.concurrency === 1 ? 'The only place of this process is taken, so ' : 'All ' + state.concurrency + ' places of this process are taken, so ') + plural(queued, 'task waits', 'tasks wait') + '.'
  let mood = 'calm'
  let headline = 'Nothing is stuck: ' + base + '.'
  let reason = ''
  if (stuck.length !== 0) {
    const [first] = stuck
    mood = 'bad'
    headline = stuck.length === 1
      ? '1 task is stuck: “' + first.name + '” has been running for ' + duration(ageOf(first)) + '.'
      : stuck.length + ' tasks are stuck: “' + first.name + '” has been running longest, for ' + duration(ageOf(first)) + '.'
    reason = sentences(first.why, first.behind > 0 ? plural(first.behind, 'task', 'tasks') + ' of ' + (first.requestId === null ? 'its request' : 'request ' + first.requestId) + (first.behind === 1 ? ' waits' : ' wait') + ' for it.' : '', places)
  } else if (late.length !== 0) {
    const [first] = late
    mood = 'warn'
    headline = late.length === 1
      ? '1 task waits too long: “' + first.name + '” has been waiting for ' + duration(ageOf(first)) + '.'
      : late.length + ' tasks wait too long: “' + first.name + '” has been waiting longest, for ' + duration(ageOf(first)) + '.'
    reason = places || first.why
  } else if (full || failed !== 0 || retrying.length !== 0) {
    mood = 'warn'
    reason = places
  }
  if (retrying.length !== 0) {
    const [first] = retrying
    const count = Math.max(retrying.length, state.counts.retrying)
    reason = sentences(reason, plural(count, 'task has failed and is', 'tasks have failed and are') + ' to be tried again, the next one “' + first.name + '”' + ended(first.why && ': ' + first.why))
  }
  if (failed !== 0) {
    const newest = [...failures.values()].reduce((a, b) => (a.at || 0) >= (b.at || 0) ? a : b)
    reason = sentences(reason, plural(failed, 'task has', 'tasks have') + ' failed lately, the last one “' + newest.name + '”: ' + newest.error)
  }
  if (state.backend !== null && state.backend.error !== null) {
    reason = sentences('It says: ' + ended(state.backend.error), mood === 'calm' ? '' : headline, reason)
    headline = state.backend.name + ' does not answer: which tasks it has cannot be seen.'
    mood = 'bad'
  }
  summary.dataset.mood = mood
  setText(byId('headline'), headline)
  setText(byId('reason'), reason)
}

function show () {
  if (state === null) return
  const groups = { running: [], later: [], waiting: [] }
  for (const task of state.tasks) groups[groupOf(task)].push(task)
  groups.later.sort((a, b) => (a.due || 0) - (b.due || 0))
  const { counts, backend } = state
  // What the backend has given to this process counts for both, as running there: of two figures, the one that takes in the other.
  const stored = backend === null || backend.counts === null ? { running: 0, waiting: 0, delayed: 0 } : backend.counts
  const here = state.tasks.filter(task => task.stored && task.here).length
  const totals = {
    running: Math.max(counts.running, groups.running.length, counts.running + stored.running - here),
    waiting: Math.max(groups.waiting.length, counts.waiting + counts.collecting + stored.waiting),
    later: Math.max(groups.later.length, counts.delayed + counts.retrying + stored.delayed)
  }
  for (const group of ['running', 'later', 'waiting']) {
    showGroup(group, groups[group], totals[group])
    setText(byId('tile-' + group).querySelector('dd'), totals[group].toLocaleString('en'))
  }
  byId('idle').hidden = totals.running + totals.later + totals.waiting !== 0
  showFailures()
  const failed = byId('tile-failed')
  setText(failed.querySelector('dd'), failures.size.toLocaleString('en'))
  failed.toggleAttribute('data-some', failures.size !== 0)
  const line = byId('backend')
  line.hidden = backend === null
  if (backend !== null) {
    setText(line, backend.error !== null
      ? backend.name + ' does not answer.'
      : backend.counts === null
        ? 'Stored tasks: ' + backend.name + ' gives no list of them.'
        : backend.name + ': ' + backend.counts.running + ' running, ' + backend.counts.waiting + ' waiting, ' + backend.counts.delayed + ' delayed or to be tried again, ' + backend.counts.failed + ' failed.')
  }
  summarize(groups, totals)
}

function path (svg, className, values, top) {
  let element = svg.querySelector('.' + className)
  if (element === null) {
    element = document.createElementNS('http://www.w3.org/2000/svg', 'path')
    element.setAttribute('class', className)
    svg.append(element)
  }
  // A line along the ground says nothing, and hides the other.
  const points = values.every(value => value === 0) ? [] : values.map((value, index) => (index * 600 / (SECONDS - 1)).toFixed(1) + ' ' + (118 - value / top * 112).toFixed(1))
  element.setAttribute('d', points.length === 0 ? '' : 'M' + points.join('L'))
}

function niceTop (value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)))
  return [1, 2, 5, 10].map(step => step * power).find(top => top >= value)
}

function drawPlots () {
  const end = Math.floor(now() / 1000) - 1
  const list = Array.from({ length: SECONDS }, (_, index) => seconds.get(end - SECONDS + 1 + index))
  const of = get => list.map(second => second === undefined ? 0 : get(second))
  const completed = of(second => second.completed)
  const failed = of(second => second.failed)
  const mean = of(second => second.begun === 0 ? 0 : second.waited / second.begun)
  const longest = of(second => second.longest)
  const plot = (id, lines, unit) => {
    const figure = byId(id)
    const svg = figure.querySelector('svg')
    const top = niceTop(Math.max(...Object.values(lines).flat()))
    for (const [name, values] of Object.entries(lines)) path(svg, name, values, top)
    const topText = unit === 'ms' && top >= 1000 ? top / 1000 + ' s' : top.toLocaleString('en') + ' ' + unit
    setText(figure.querySelector('.top'), 'top: ' + topText)
    const described = Object.entries(lines).map(([name, values]) => name + ' at most ' + Math.round(Math.max(...values)) + ', lately ' + Math.round(values.at(-1)))
    svg.setAttribute('aria-label', figure.querySelector('figcaption').firstChild.textContent.trim() + ', in ' + unit + ': ' + described.join('; '))
  }
  plot('plot-rate', { completed, failed }, 'per second')
  plot('plot-queue', { mean, longest }, 'ms')
  const last = completed.slice(-5)
  const rate = last.reduce((a, b) => a + b) / last.length
  setText(byId('tile-rate').querySelector('dd'), rate === 0 || rate >= 10 ? Math.round(rate).toLocaleString('en') : rate.toFixed(1))
}

let fading

/** A button that is disabled would lose the focus: one that is busy only says so. */
async function act (button, { id, name }, action) {
  if (button.getAttribute('aria-disabled') === 'true') return
  button.setAttribute('aria-disabled', 'true')
  const outcome = byId('outcome')
  clearTimeout(fading)
  try {
    const response = await fetch('tasks/' + encodeURIComponent(id) + '/' + action, { method: 'POST', headers: { 'x-background-tasks-dashboard': '1' } })
    const answer = await response.json().catch(() => ({ message: 'the server answered with status ' + response.status + '.' }))
    if (!response.ok) outcome.textContent = '“' + name + '”: ' + answer.message
    else if (action === 'cancel') outcome.textContent = answer.done ? '“' + name + '” was cancelled.' : '“' + name + '” could not be cancelled: it has ended, or runs where nothing can stop it.'
    else outcome.textContent = answer.done ? '“' + name + '” runs again.' : '“' + name + '” could not be run again: it is not known any more.'
  } catch {
    outcome.textContent = '“' + name + '”: the server does not answer.'
  }
  button.removeAttribute('aria-disabled')
  fading = setTimeout(() => { outcome.textContent = '' }, PAUSE)
}

let unannounced = []
let announcedAt = 0

/** Not each second anew: a screen reader would say nothing else. */
function announce (added) {
  unannounced.push(...added)
  if (unannounced.length === 0 || Date.now() - announcedAt < PAUSE) return
  const [first] = unannounced
  byId('news').textContent = unannounced.length === 1 ? 'Failed: ' + first.name + ': ' + first.error : unannounced.length + ' tasks have failed'
  unannounced = []
  announcedAt = Date.now()
}

/** @param trouble why the page does not show what is now; empty if it does */
function setConnection (trouble) {
  const connection = byId('connection')
  connection.toggleAttribute('data-live', trouble === '')
  connection.toggleAttribute('data-lost', trouble !== '')
  document.body.toggleAttribute('data-stale', trouble !== '')
  setText(connection, trouble === '' ? 'Live' : trouble + ' What is shown is from ' + new Date(heard).toLocaleTimeString() + '.')
}

/** Of a server that is silent, the browser says nothing. */
function listen () {
  if (byId('connection').hasAttribute('data-live') && Date.now() - heard > SILENCE) setConnection('The server is silent, or too busy to speak.')
}

function receive (next) {
  heard = Date.now()
  setConnection('')
  ahead = next.now - Date.now()
  if (next.full) {
    failures.clear()
    seconds.clear()
  }
  state = next
  for (const second of next.seconds) seconds.set(second.at, second)
  for (const at of seconds.keys()) if (at < next.now / 1000 - SECONDS - 5) seconds.delete(at)
  for (const id of next.failures.removed) failures.delete(id)
  for (const failure of next.failures.added) {
    failures.delete(failure.id)
    failures.set(failure.id, failure)
  }
  for (const id of failures.keys()) {
    if (failures.size <= KEPT_FAILURES) break
    failures.delete(id)
  }
  if (!next.full) announce(next.failures.added)
  show()
  drawPlots()
}

function connect () {
  const events = new EventSource('events')
  events.onmessage = event => receive(JSON.parse(event.data))
  events.onerror = () => {
    setConnection('The connection is lost; trying again …')
    // After an answer that is not a stream the browser gives up.
    if (events.readyState === EventSource.CLOSED) setTimeout(connect, 5000)
  }
}

connect()
setInterval(listen, 1000)
`
