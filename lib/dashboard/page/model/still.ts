import type { TaskPage, TaskView } from '../../protocol'

/* A list that stands still while one reads: what is new is counted, what has gone stays where it was. */

export interface StillRow {
  task: TaskView
  /** It is not in the list any more. */
  gone: boolean
}

export interface StillList {
  rows: StillRow[]
  /** How many tasks of the latest answer are not among the rows, and how many rows have gone. */
  fresh: number
  gone: number
}

/**
 * @param shown the answer whose rows are shown
 * @param latest the last answer
 */
export function stillList (shown: TaskPage, latest: TaskPage): StillList {
  const known = new Map(latest.tasks.map(task => [task.id, task]))
  const rows = shown.tasks.map(task => ({ task: known.get(task.id) ?? task, gone: !known.has(task.id) }))
  const ids = new Set(shown.tasks.map(({ id }) => id))
  return {
    rows,
    fresh: latest.tasks.filter(({ id }) => !ids.has(id)).length,
    gone: rows.filter(({ gone }) => gone).length
  }
}
