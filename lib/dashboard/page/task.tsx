import { useState } from 'preact/hooks'
import type { AttemptError, Overview, ProgressView, TaskDetails, ViewState } from '../protocol'
import { go, usePolled } from './hooks'
import { ago, due, duration, number, plural } from './model/format'
import { addressOf, listRoute } from './model/route'
import { partsOf } from './model/stack'
import { isStuck, Progress } from './parts'
import { server } from './server'
import { TaskActions } from './task-actions'

const STATES: Record<ViewState, string> = {
  collecting: 'Waits for the answer of its request',
  waiting: 'Waiting',
  delayed: 'Delayed',
  retrying: 'To be tried again',
  running: 'Running',
  failed: 'Failed',
  completed: 'Completed',
  cancelled: 'Cancelled',
  dropped: 'Dropped'
}

export function TaskScreen ({ id, overview, now }: { id: string, overview: Overview, now: number }) {
  const { answer: task, trouble, ask } = usePolled(id, () => server.task(id))
  return (
    <section id='task' aria-labelledby='task-title'>
      {trouble !== '' && <p class='trouble' role='alert'>The task could not be read: {trouble}</p>}
      {task === undefined && trouble === '' && <p class='more'>Reading …</p>}
      {task === null && <Unknown id={id} />}
      {task != null && <Task task={task} overview={overview} now={now} onDone={next => next === id ? ask() : go({ page: 'task', id: next })} />}
    </section>
  )
}

function Unknown ({ id }: { id: string }) {
  return (
    <>
      <h2 id='task-title'>Not known</h2>
      <p>No task <code>{id}</code> is known here. It may have ended and been forgotten, or be in another process.</p>
    </>
  )
}

function Task ({ task, overview: { stuckAfter }, now, onDone }: { task: TaskDetails, overview: Overview, now: number, onDone: (id: string) => void }) {
  const { id, name, state, requestId, attempt, attempts, why, behind, progress, stored, here, errors, payload, result, folder } = task
  // Of what has ended in this process, that is not kept.
  const isForgotten = here && !stored && ENDED.includes(state) && state !== 'failed'
  const stuck = isStuck(task, now, stuckAfter)
  return (
    <>
      <div class='task-head'>
        <h2 id='task-title'>{name} <span class='state' data-state={state} data-stuck={stuck}>{stuck ? 'Stuck' : STATES[state] ?? state}</span></h2>
        <TaskActions task={task} onDone={onDone} />
      </div>
      <Timeline task={task} now={now} isStuck={stuck} />
      {progress !== null && <WideProgress name={name} progress={progress} />}
      {why !== '' && <p class='why'>{why}{behind > 0 && ` ${plural(behind, 'task of its request waits', 'tasks of its request wait')} for it.`}</p>}
      <dl class='card facts'>
        <div><dt>Id</dt><dd><code>{id}</code></dd></div>
        <div><dt>Request</dt><dd>{requestId === null ? (isForgotten ? '–' : 'added by the application') : <code>{requestId}</code>}</dd></div>
        <div><dt>Attempt</dt><dd>{attempt === 0 ? 'none yet,' : number(attempt)} {!isForgotten && `of ${number(attempts)}`}</dd></div>
        <div><dt>Kept</dt><dd>{stored ? 'by the backend' : 'only in this process: lost when it stops'}</dd></div>
      </dl>
      {errors.length !== 0 && <Errors errors={errors} first={firstFailed(task)} now={now} folder={folder} />}
      {payload !== undefined && <Json title='Payload' text={payload} />}
      {result !== undefined && <Json title='Result' text={result} />}
      {requestId !== null && <p class='more'><a href={addressOf(listRoute('waiting', { search: `"${requestId}"` }))}>What waits of the same request</a></p>}
    </>
  )
}

/** The attempt that the first error is of: the one under way has not failed. */
function firstFailed ({ state, attempt, errors }: TaskDetails): number {
  return attempt - errors.length + (state === 'running' ? 0 : 1)
}

function WideProgress ({ name, progress }: { name: string, progress: ProgressView }) {
  const { percent, text } = progress
  const isNumber = percent !== null && text.length <= 6
  return (
    <div class='card wide-progress'>
      {percent !== null && <Progress name={name} progress={{ percent, text: '' }} />}
      {!isNumber && <pre tabIndex={0}>{text}</pre>}
    </div>
  )
}

const ENDED: ViewState[] = ['failed', 'completed', 'cancelled', 'dropped']

/** Its states so far, and its next one, as a line. */
function Timeline ({ task, now, isStuck }: { task: TaskDetails, now: number, isStuck: boolean }) {
  const { state, since, due: dueAt, added, started, ended, errors, attempt } = task
  const steps: Array<{ label: string, text: string, title: string, now?: boolean }> = []
  const step = (label: string, at: number | null, text: string, isNow = false) => { steps.push({ label, text, title: at === null ? '' : new Date(at).toLocaleString(), now: isNow }) }
  if (added !== null) step('Added', added, ago(added, now))
  // The last error is the end, where there is one.
  for (const [index, { at }] of (state === 'failed' ? errors.slice(0, -1) : errors).entries()) {
    if (at !== null) step(`Attempt ${number(firstFailed(task) + index)} failed`, at, ago(at, now))
  }
  const begun = started ?? (state === 'running' ? since : null)
  if (begun !== null && state !== 'waiting') step(attempt > 1 ? `Attempt ${number(attempt)} began` : 'Began', begun, ago(begun, now))
  if (ENDED.includes(state)) {
    const took = begun !== null && ended !== null ? `, after ${duration(ended - begun)}` : ''
    step(STATES[state], ended, ended === null ? '' : `${ago(ended, now)}${took}`, true)
  } else if (state === 'running') {
    const silent = task.silentSince
    step(isStuck ? 'Stuck' : 'Runs', since, since === null ? '' : silent !== null && silent - since > 1_000 ? `its last progress was ${ago(silent, now)}` : `${isStuck ? 'running ' : ''}for ${duration(now - since)}`, true)
  } else if (dueAt !== null) {
    step(state === 'retrying' ? 'Next attempt' : 'Due', dueAt, due(dueAt, now), true)
  } else {
    step(state === 'collecting' ? 'Waits for its request' : 'Waits', since, since === null ? '' : `for ${duration(now - since)}`, true)
  }
  return (
    <ol class='timeline' data-state={state} data-stuck={isStuck}>
      {steps.map(({ label, text, title, now }) => <li key={label} data-now={now === true} title={title}><b>{label}</b> <span>{text}</span></li>)}
    </ol>
  )
}

function Errors ({ errors, first, now, folder }: { errors: AttemptError[], first: number, now: number, folder: string }) {
  const newest = errors.map((error, index) => ({ error, attempt: first + index })).reverse()
  return (
    <section id='errors' aria-labelledby='errors-title'>
      <h3 id='errors-title'>{errors.length === 1 ? 'Error' : `Errors of ${number(errors.length)} attempts, the last one first`}</h3>
      <div class='card'>
        {newest.map(({ error, attempt }, index) => (
          <details key={attempt} open={index === 0}>
            <summary>{attempt > 0 && <span class='where'>Attempt {number(attempt)}{error.at === null ? '' : `, ${ago(error.at, now)}`}</span>}<span class='error'>{error.error}</span></summary>
            <Stack stack={error.stack} folder={folder} />
          </details>
        ))}
      </div>
    </section>
  )
}

function Stack ({ stack, folder }: { stack: string, folder: string }) {
  const [unfolded, setUnfolded] = useState(false)
  const parts = partsOf(stack, folder)
  const folded = parts.reduce((count, part) => count + (part.folded ? part.lines.length : 0), 0)
  return (
    <>
      <pre tabIndex={0}>{parts.filter(part => unfolded || !part.folded).map(({ lines }) => lines.join('\n')).join('\n')}</pre>
      {folded !== 0 && <button type='button' class='quiet' onClick={() => setUnfolded(!unfolded)}>{unfolded ? 'Fold' : 'Show'} {plural(folded, 'frame', 'frames')} of the plugin and of Node</button>}
    </>
  )
}

function Json ({ title, text }: { title: string, text: string }) {
  return (
    <section aria-label={title}>
      <h3>{title}</h3>
      <pre tabIndex={0} class='json'>{text === '' ? 'none' : text}</pre>
    </section>
  )
}
