/* How figures and times are written. */

export function number (value: number): string {
  return value.toLocaleString('en')
}

export function plural (count: number, one: string, many: string): string {
  return `${number(count)} ${count === 1 ? one : many}`
}

/** In the two largest units. */
export function duration (ms: number): string {
  const s = Math.max(0, ms) / 1_000
  if (s < 1) return '< 1 s'
  if (s < 60) return `${Math.floor(s)} s`
  if (s < 3_600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`
  if (s < 86_400) return `${Math.floor(s / 3_600)} h ${Math.floor(s % 3_600 / 60)} min`
  return `${Math.floor(s / 86_400)} d ${Math.floor(s % 86_400 / 3_600)} h`
}

export function ago (then: number | null, now: number): string {
  return then === null ? '–' : `${duration(now - then)} ago`
}

/** When something is due. */
export function due (then: number | null, now: number): string {
  if (then === null) return '–'
  return then <= now ? 'now' : `in ${duration(then - now)}`
}

/** A rate, with a decimal where that says something. */
export function rate (value: number): string {
  return value === 0 || value >= 10 ? number(Math.round(value)) : value.toFixed(1)
}

/** A wait on an axis. */
export function milliseconds (ms: number): string {
  if (ms >= 60_000) return `${number(Math.round(ms / 6_000) / 10)} min`
  return ms >= 1_000 ? `${number(Math.round(ms / 100) / 10)} s` : `${number(Math.round(ms))} ms`
}

/** An interval, in the largest unit of which it is a whole number. */
export function interval (ms: number): string {
  for (const [unit, one, many] of [[86_400_000, 'day', 'days'], [3_600_000, 'hour', 'hours'], [60_000, 'minute', 'minutes'], [1_000, 'second', 'seconds']] as const) {
    if (ms % unit === 0) return ms === unit ? `every ${one}` : `every ${plural(ms / unit, one, many)}`
  }
  return `every ${number(ms)} ms`
}

/** Ends a sentence. */
export function ended (text: string): string {
  return /[.…!?]$/.test(text) ? text : `${text}.`
}

export function sentences (...parts: Array<string | false | null | undefined>): string {
  return parts.filter(Boolean).join(' ')
}
