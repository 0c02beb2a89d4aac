/** A function's name. A class may have a static member `name` of any kind, or a getter that throws. */
export function nameOf (fn: { name: unknown }): string {
  try {
    if (typeof fn.name === 'string' && fn.name !== '') return fn.name
  } catch {}
  return 'anonymous'
}
