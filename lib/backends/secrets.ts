/*
 * Keeps credentials out of errors. Drivers put into their errors the command that failed, `AUTH` with its password for instance, the
 * URL, or the whole client.
 */

/** Fields of drivers' errors that hold a client, a URL or a whole configuration. */
const WITHHELD = ['client', 'input', 'address', 'config', 'options']

/** Fields that hold other errors. */
const NESTED = ['cause', 'lastNodeError', 'previousErrors', 'errors']

/** Names of options that are secret. */
const SECRET_OPTION = /pass(word|phrase)?$|^secret/i

/** Options that hold others, or a URL. */
const HOLDER = ['url', 'connectionString', 'options', 'redisOptions', 'sentinels', 'tls', 'ssl']

/** How deep errors and options are searched. */
const MAX_DEPTH = 5

/** Characters. A shorter secret would be found in words that have nothing to do with it. */
const MIN_LENGTH = 4

const REDACTED = '[redacted]'

export class Secrets {
  readonly #secrets = new Set<string>()

  /** @param connection a URL, options, or a client that has `options` */
  constructor (connection: unknown) {
    this.#collect(connection, 0)
  }

  #collect (value: unknown, depth: number): void {
    if (typeof value === 'string') return this.#collectUrl(value)
    if (typeof value !== 'object' || value === null || depth > MAX_DEPTH) return
    if (Array.isArray(value)) return value.forEach(one => this.#collect(one, depth + 1))
    // Drivers make the password a field that is not enumerable.
    for (const name of Object.getOwnPropertyNames(value)) {
      const field = (value as Record<string, unknown>)[name]
      if (SECRET_OPTION.test(name)) this.#add(field)
      else if (HOLDER.includes(name)) this.#collect(field, depth + 1)
    }
  }

  #collectUrl (url: string): void {
    // A regular expression, as `URL` refuses a password that was not encoded, with any of `:/?#@` in it.
    const [, userinfo, query] = /:\/\/(?:(.*)@)?[^?]*(\?.*)?$/s.exec(url) ?? []
    if (userinfo !== undefined && userinfo.includes(':')) this.#add(userinfo.slice(userinfo.indexOf(':') + 1))
    for (const [name, value] of new URLSearchParams(query)) if (SECRET_OPTION.test(name)) this.#add(value)
  }

  #add (secret: unknown): void {
    if (typeof secret !== 'string') return
    const forms = [secret, encodeURIComponent(secret)]
    try {
      forms.push(decodeURIComponent(secret))
    } catch {
      // A URIError: the secret was not encoded.
    }
    for (const form of forms) if (form.length >= MIN_LENGTH) this.#secrets.add(form)
  }

  /** Removes secrets from an error and from the errors that it holds, in place. */
  redact (error: unknown, depth = 0): void {
    if (Array.isArray(error)) return error.forEach(one => this.redact(one, depth))
    if (typeof error !== 'object' || error === null || depth > MAX_DEPTH) return
    for (const name of Object.getOwnPropertyNames(error)) {
      const field = (error as Record<string, unknown>)[name]
      if (WITHHELD.includes(name)) delete (error as Record<string, unknown>)[name]
      // A command of ioredis: its arguments are credentials, or the tasks of many requests.
      else if (name === 'command') set(error, name, typeof field === 'object' ? { name: (field as { name?: unknown } | null)?.name } : field)
      else if (NESTED.includes(name)) this.redact(field, depth + 1)
      else if (typeof field === 'string') set(error, name, this.#without(field))
    }
  }

  #without (text: string): string {
    let rest = text.replace(/(\w:\/\/)[^\s'"]*@/g, `$1${REDACTED}@`)
    for (const secret of this.#secrets) rest = rest.replaceAll(secret, REDACTED)
    return rest
  }
}

/** Sets a field, and leaves it enumerable or not, as the driver made it. */
function set (object: object, name: string, value: unknown): void {
  const { enumerable, configurable } = Object.getOwnPropertyDescriptor(object, name) as Required<PropertyDescriptor>
  // From Node 22 on, `stack` may be a getter.
  if ((object as Record<string, unknown>)[name] !== value && configurable) Object.defineProperty(object, name, { value, writable: true, enumerable, configurable })
}
