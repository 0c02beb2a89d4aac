import { existsSync } from 'node:fs'
import { isAbsolute } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { inspect } from 'node:util'
import type { TaskHandler } from '../../types/definition'
import { FST_BGT_INVALID_MODULE } from '../shared/errors'
import { received, textOf } from '../shared/show'

/** The URL of a module that is given by URL or absolute path; `null` for anything else. */
export function moduleUrl (file: unknown): string | null {
  if (file instanceof URL) return file.protocol === 'file:' ? file.href : null
  if (typeof file !== 'string') return null
  if (file.startsWith('file:')) return file
  return isAbsolute(file) ? pathToFileURL(file).href : null
}

/** The loaded handlers of this thread, by module URL. A second `import` would look for the file again. */
const handlers = new Map<string, TaskHandler<any, unknown>>()

/**
 * The handler of a task's module, in this thread: its default export.
 * @throws FST_BGT_INVALID_MODULE
 */
export async function loadHandler (task: string, file: string): Promise<TaskHandler<any, unknown>> {
  let handler = handlers.get(file)
  if (handler === undefined) {
    handler = await importHandler(task, file)
    handlers.set(file, handler)
  }
  return handler
}

async function importHandler (task: string, file: string): Promise<TaskHandler<any, unknown>> {
  const path = fileURLToPath(file)
  if (!existsSync(path)) throw new FST_BGT_INVALID_MODULE(task, `a file that exists, received ${path}`)
  let exported: any
  try {
    exported = (await import(file)).default
  } catch (cause) {
    const expected = isTypeScriptTrouble(path, cause)
      ? `a file that Node ${process.version} can load (compile it to JavaScript, or run Node with a loader for TypeScript)`
      : 'a file that can be imported'
    throw new FST_BGT_INVALID_MODULE(task, `${expected}, received ${path}: ${textOf(cause)}`, { cause })
  }
  // TypeScript's default export in CommonJS.
  const handler = exported?.__esModule === true ? exported.default : exported
  if (typeof handler !== 'function') throw new FST_BGT_INVALID_MODULE(task, `a file whose default export is a function, received ${received(handler)} from ${path}`)
  return handler
}

function isTypeScriptTrouble (path: string, error: unknown): boolean {
  // Node gives a code, some loaders only a message with it. Without a loader, types are a syntax error.
  return /\.[cm]?ts$/.test(path) && (error instanceof SyntaxError || /ERR_UN(KNOWN|SUPPORTED)_/.test(inspect(error)))
}
