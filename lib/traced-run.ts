import { isTraced, messageOf, runChannel, type RunMessage } from './diagnostics'
import { asPromise, isThenable } from './executor'
import type { Line } from './line'
import { propagation } from './propagation'
import type { Task, TaskFunction } from './task'

/** Calls the function of a task, and tells those who follow runs. */
export function run (task: Task, line: Line, fn: TaskFunction, args: unknown[]): unknown {
  return isTraced() ? tracedRun(task, line, fn, args) : task.run(fn, args)
}

/** As `TracingChannel.tracePromise`, but what is not a promise does not become one. */
function tracedRun (task: Task, line: Line, fn: TaskFunction, args: unknown[]): unknown {
  const { start, end, asyncStart, asyncEnd, error } = runChannel
  const message: RunMessage = { ...messageOf(task, line), carrier: line.carrier, async: false, result: undefined, error: undefined }

  function call (): unknown {
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

  // Inside the task's async context: a store that is bound to the channel lives in there.
  return task.run(() => start.runStores(message, call), [])
}
