import type { Overview, TaskView } from '../../protocol'
import { due, duration, ended, number, plural, sentences } from './format'

/* The sentence on top: what is stuck and why, the worst first. */

export interface Summary {
  mood: 'calm' | 'warn' | 'bad'
  headline: string
  reason: string
  /** The task that it speaks of. */
  task: TaskView | null
}

/** A backend tells of so many tasks of a state at once: of more, the page knows at least what is among those. */
const LISTED = 100

/**
 * @param now by the server's clock
 */
export function summaryOf (overview: Overview, now: number): Summary {
  const summary = worstOf(overview, now)
  summary.reason = sentences(summary.reason, pausedText(overview), retryingText(overview, now), failedText(overview))
  const { backend } = overview
  if (backend === null || backend.error === null) return summary
  return {
    mood: 'bad',
    headline: `${backend.name} does not answer: which tasks it has cannot be seen.`,
    reason: sentences(`It says: ${ended(backend.error)}`, summary.mood === 'calm' ? '' : summary.headline, summary.reason),
    task: summary.task
  }
}

function worstOf (overview: Overview, now: number): Summary {
  const { stuck, oldest, stuckAfter, totals, worker } = overview
  const places = placesText(overview)
  if (stuck.first !== null) return stuckSummary(stuck.first, overview, places, now)
  if (oldest !== null && oldest.since !== null && now - oldest.since > stuckAfter) {
    const waits = `“${oldest.name}” has been waiting for ${duration(now - oldest.since)}`
    return {
      mood: 'warn',
      headline: totals.waiting <= 1 ? `1 task waits too long: ${waits}.` : `Tasks wait too long: ${waits}. In all, ${number(totals.waiting)} tasks wait.`,
      reason: places === '' || oldest.state === 'collecting' ? oldest.why : places,
      task: oldest
    }
  }
  const base = `${plural(totals.running, 'task runs', 'tasks run')}, ${plural(totals.waiting, 'waits', 'wait')}` +
    (totals.later === 0 ? '' : `, ${plural(totals.later, 'is', 'are')} to be tried again or delayed`)
  const isCalm = places === '' && totals.failed === 0 && overview.retrying.next === null && worker?.paused !== true
  return { mood: isCalm ? 'calm' : 'warn', headline: `Nothing is stuck: ${base}.`, reason: places, task: null }
}

function stuckSummary (first: TaskView, { stuck: { count }, stuckAfter, backend }: Overview, places: string, now: number): Summary {
  const silent = now - Number(first.silentSince)
  const isStill = first.since !== null && first.silentSince !== null && first.silentSince - first.since > 1_000
  const stands = isStill ? `, and its progress has stood still for ${duration(silent)}` : ''
  const runs = `has been running for ${duration(now - Number(first.since ?? first.silentSince))}${stands}`
  const atLeast = (backend?.counts?.running ?? 0) > LISTED ? 'At least ' : ''
  const behind = first.behind === 0 ? '' : `${plural(first.behind, 'task', 'tasks')} of ${first.requestId === null ? 'its request' : `request ${first.requestId}`} ${first.behind === 1 ? 'waits' : 'wait'} for it.`
  return {
    mood: 'bad',
    headline: count === 1 && atLeast === '' ? `1 task is stuck: “${first.name}” ${runs}.` : `${atLeast}${plural(count, 'task is', 'tasks are')} stuck. The first is “${first.name}”: it ${runs}.`,
    reason: sentences(first.why, behind, places, `A task is called stuck after ${duration(stuckAfter)} without progress.`),
    task: first
  }
}

function placesText ({ places: { limit, taken, queued } }: Overview): string {
  if (limit === null || taken < limit || queued === 0) return ''
  const waits = plural(queued, 'task waits', 'tasks wait')
  return limit === 1 ? `The only place of this process is taken, and ${waits}.` : `All ${number(limit)} places of this process are taken, and ${waits}.`
}

function pausedText ({ worker, backend }: Overview): string {
  return worker?.paused === true && backend !== null ? `This process is paused: it takes no tasks of ${backend.name}.` : ''
}

function retryingText ({ retrying: { count, next }, backend }: Overview, now: number): string {
  if (next === null) return ''
  const atLeast = (backend?.counts?.later ?? 0) > LISTED ? 'At least ' : ''
  const when = next.due === null || next.due <= now ? '' : ` ${due(next.due, now)}`
  return `${atLeast}${plural(count, 'task has failed and is', 'tasks have failed and are')} to be tried again, the next one “${next.name}”${when}${ended(next.why === '' ? '' : `: ${next.why}`)}`
}

function failedText ({ totals, failures: { groups: [newest] } }: Overview): string {
  if (totals.failed === 0) return ''
  const last = newest === undefined ? '' : `, the newest “${newest.name}”: ${newest.error}`
  return ended(`${plural(totals.failed, 'task has', 'tasks have')} failed${last}`)
}
