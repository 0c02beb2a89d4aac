import type { TaskView } from '../protocol'
import { Action } from './parts'
import { server } from './server'

/**
 * The actions on one task, by its state.
 * @param onDone is given the id of the task, or of the one that runs in its place
 */
export function TaskActions ({ task, onDone }: { task: TaskView, onDone: (id: string) => void }) {
  const { id, name, state, cancellable, again } = task
  async function cancel (): Promise<string> {
    const { done } = await server.act(id, 'cancel')
    onDone(id)
    return done ? `“${name}” was cancelled.` : `“${name}” could not be cancelled: it has ended, or runs where nothing can stop it.`
  }
  async function runAgain (): Promise<string> {
    const { done, id: next = id } = await server.act(id, 'run-again')
    onDone(next)
    return done ? `“${name}” runs again.` : `“${name}” could not be run again: it is not known any more, or another task has its dedupe id.`
  }
  async function dismiss (): Promise<string> {
    const { done } = await server.act(id, 'dismiss')
    onDone(id)
    return done ? `“${name}” was dismissed.` : `“${name}” could not be dismissed: it has not failed, or is not known any more.`
  }
  return (
    <span class='actions'>
      {cancellable && <Action label='Cancel' title={`Cancel ${name}`} question={state === 'running' ? 'Tell it to stop?' : 'Cancel this task?'} yes='Yes, cancel' act={cancel} />}
      {again && <Action label='Run again' title={`Run ${name} again`} act={runAgain} />}
      {state === 'failed' && <Action label='Dismiss' title={`Dismiss ${name}`} question='Remove it for good?' yes='Yes, remove' act={dismiss} quiet />}
    </span>
  )
}
