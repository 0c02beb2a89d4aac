/**
 * Thrown by a task to say that further attempts are pointless: it fails at once, whatever `attempts` says.
 *
 * An error class rather than a method of the context, so that plain functions and code deep below a task can use it;
 * it is told by its `name`, as BullMQ tells its own class of the same name, so either may be thrown, and one that comes
 * out of another thread or another copy of this package counts too.
 */
export class UnrecoverableError extends Error {
  override readonly name = 'UnrecoverableError'
}

export function isUnrecoverable (error: unknown): boolean {
  try {
    return (error as Error | null | undefined)?.name === 'UnrecoverableError'
  } catch {
    // Whatever it is, it cannot say so.
    return false
  }
}
