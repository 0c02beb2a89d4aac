import type { Outcome } from '../../types/task'
import { received } from '../shared/show'
import { runsOn } from '../task/run-on'
import type { Task } from '../task/task'
import type { Engine } from './engine'
import type { Line } from './line'

/**
 * Whether the outcome lets a task run. If not, the task is settled, unless the outcome may still change.
 * @param beforeError whether the task was added before the error of its request
 */
export function admits (engine: Engine, task: Task, line: Line, outcome: Outcome, beforeError: boolean, final: boolean): boolean {
  try {
    if (task.spec === null ? !beforeError : runsOn(task.spec.runOn, outcome, beforeError)) return !task.isSettled
  } catch (error) {
    // Neither running nor dropping it would be in the sense of the predicate.
    engine.fail(task, line, error)
    return false
  }
  if (final) engine.drop(task, line, `runOn: ${received(task.spec?.runOn ?? 'success')}`)
  return false
}

/** Whether a task may start before the outcome is known. */
export function isReleasable ({ spec }: Task): boolean {
  return spec === null || spec.runOn === 'success' || spec.runOn === 'always'
}
