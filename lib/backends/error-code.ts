/* The `code` of an error that a task threw, which backends store with its message and stack. */

export type Code = string | number

/** The `code` of a thrown value; `undefined` if there is none. A getter or a proxy of the user's may throw. */
export function codeOf (error: unknown): Code | undefined {
  try {
    const { code } = error as { code?: unknown }
    return typeof code === 'string' || typeof code === 'number' ? code : undefined
  } catch {
    return undefined
  }
}

export function setCode (error: Error, code: unknown): void {
  if (typeof code === 'string' || typeof code === 'number') Object.assign(error, { code })
}
