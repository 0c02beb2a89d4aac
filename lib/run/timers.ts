import { setTaskTimeout } from '../shared/deadline'
import type { Task } from '../task/task'
import type { Ledger } from './ledger'
import type { Line } from './line'
import type { Runner } from './runner'

/**
 * Lets a pending task join the end of its line once `ms` are over, a delay or the wait between two attempts; the front, if the line waits for
 * the task. Until then the task is outside the line.
 */
export function joinLater ({ ledger, runner }: { ledger: Ledger, runner: Runner }, task: Task, line: Line, ms: number): void {
  line.waiting ??= new Set()
  line.waiting.add(task)
  ledger.waiting++
  if (task.attempts === 0) ledger.delayed++
  task.extra.due = Date.now() + ms
  task.extra.clearTimer = setTaskTimeout(() => {
    stopWaiting(task, line, ledger)
    if (line.held === task) {
      line.held = null
      line.tasksInLine.prepend(task)
    } else {
      line.tasksInLine.append(task)
    }
    runner.enqueue(line)
  }, ms)
}

/** Ends the wait of a task, if it has one. */
export function stopWaiting (task: Task, line: Line, ledger: Ledger): void {
  if (line.waiting === null || !line.waiting.delete(task)) return
  task.extra.clearTimer?.()
  task.extra.clearTimer = null
  ledger.waiting--
  if (task.attempts === 0) ledger.delayed--
}
