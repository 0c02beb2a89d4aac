import type { FailureGroup, Overview } from '../protocol'
import { ago, number, plural } from './model/format'
import { addressOf, listRoute } from './model/route'
import { Action } from './parts'
import { server } from './server'

const SHOWN = 5

/** Failed tasks, grouped by their name and what they failed with. */
export function Failures ({ overview, now, all = false }: { overview: Overview, now: number, all?: boolean }) {
  const { failures: { groups, of, more }, totals } = overview
  const shown = all ? groups : groups.slice(0, SHOWN)
  const others = groups.length - shown.length + more
  return (
    <section id='failures' aria-labelledby='failures-title'>
      <h2 id='failures-title'>Failed <span class='count'>{totals.failed === 0 ? '' : number(totals.failed)}</span></h2>
      {groups.length === 0 && <p class='more'>{totals.failed === 0 ? 'None.' : 'They are being counted …'}</p>}
      {groups.length !== 0 && <ul class='card groups'>{shown.map(group => <GroupRow key={group.id} group={group} now={now} />)}</ul>}
      {(others !== 0 || totals.failed > of) && groups.length !== 0 && (
        <p class='more'>
          {others !== 0 && <a href={addressOf(listRoute('failed'))}>{plural(others, 'more group', 'more groups')}: the list of all that has failed</a>}
          {others !== 0 && totals.failed > of && '. '}
          {totals.failed > of && `The newest ${number(of)} are grouped.`}
        </p>
      )}
    </section>
  )
}

function GroupRow ({ group, now }: { group: FailureGroup, now: number }) {
  const { name, error, count, last } = group
  return (
    <li>
      <span class='tally' aria-label={plural(count, 'task', 'tasks')}>{number(count)}</span>
      <span class='what'>
        <a class='name' href={addressOf(listRoute('failed', { group: group.id }))}>{name}</a>
        <span class='where'>{count === 1 ? '' : 'the last one '}{ago(last, now)}</span>
        <span class='error'>{error}</span>
      </span>
      <GroupActions group={group} />
    </li>
  )
}

export function GroupActions ({ group: { id, name, count, again, dismissible } }: { group: FailureGroup }) {
  async function runAgain (): Promise<string> {
    const done = await server.actOnGroup(id, 'run-again')
    return done === 0 ? `“${name}”: none could be run again.` : `“${name}”: ${plural(done, 'task runs', 'tasks run')} again.`
  }
  async function dismiss (): Promise<string> {
    const done = await server.actOnGroup(id, 'dismiss')
    return done === 0 ? `“${name}”: none could be dismissed.` : `“${name}”: ${plural(done, 'task was', 'tasks were')} dismissed.`
  }
  const label = again === 1 && count === 1 ? 'Run again' : again === count ? 'Run all again' : `Run ${number(again)} again`
  return (
    <span class='actions'>
      {again !== 0 && <Action label={label} title={`${label}: ${name}`} {...(again > 1 && { question: `Run ${number(again)} tasks again?${again < count ? ` Of the other ${number(count - again)} only the number is kept.` : ''}`, yes: 'Yes, run' })} act={runAgain} />}
      {dismissible && <Action label='Dismiss' title={`Dismiss ${name}`} question={count === 1 ? 'Remove it for good?' : `Remove ${number(count)} tasks for good?`} yes='Yes, remove' act={dismiss} quiet />}
    </span>
  )
}
