import type { RunMessage } from '../../types/messages'
import { isTraced, messageOf, runChannel } from '../observe/channels'
import { propagation } from '../observe/propagation'
import { asPromise, isThenable } from '../shared/promises'
import type { Origin } from '../task/origin'
import type { Task, TaskFunction } from '../task/task'

/** Calls the function of a task in the task's async context, traced where a tracing channel has subscribers. */
export function call (task: Task, origin: Origin, fn: TaskFunction, args: unknown[]): unknown {
  return isTraced() ? tracedCall(task, origin, fn, args) : task.run(fn, args)
}

/** As `TracingChannel.tracePromise`, but a plain result does not become a promise. */
function tracedCall (task: Task, origin: Origin, fn: TaskFunction, args: unknown[]): unknown {
  const { start, end, asyncStart, asyncEnd, error } = runChannel
  const message: RunMessage = { ...messageOf(task, origin), carrier: origin.carrier, async: false, result: undefined, error: undefined }

  function called (): unknown {
    const active = propagation()
    let result
    try {
      result = active === null ? fn(...args) : active.run(task, () => fn(...args))
      if (isThenable(result)) {
        result = asPromise(result).then(fulfilled, rejected)
        message.async = true
      } else {
        message.result = result
      }
    } catch (reason) {
      message.error = reason
      error.publish(message)
      end.publish(message)
      throw reason
    }
    end.publish(message)
    return result
  }

  function fulfilled (value: unknown): unknown {
    message.result = value
    asyncStart.publish(message)
    asyncEnd.publish(message)
    return value
  }

  function rejected (reason: unknown): never {
    message.error = reason
    error.publish(message)
    asyncStart.publish(message)
    asyncEnd.publish(message)
    throw reason
  }

  // Inside the task's async context, where stores that are bound to the channel live.
  return task.run(() => start.runStores(message, called), [])
}
