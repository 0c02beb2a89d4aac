/* A stack trace, with the frames folded that say nothing of the user's code. */

export interface StackPart {
  folded: boolean
  lines: string[]
}

const FRAME = /^\s+at /
/** Frames of the plugin, of its bundle's neighbours in `node_modules` that run tasks, and of Node itself. */
const FOREIGN = /[\\/]fastify-background-tasks[\\/](?:dist|lib)[\\/]|\(node:|at (?:async )?node:|[\\/]node_modules[\\/](?:bullmq|piscina|ioredis|pg)[\\/]/

/** @param folder where the plugin's own code is, if the server has told it */
export function partsOf (stack: string, folder = ''): StackPart[] {
  const parts: StackPart[] = []
  for (const line of stack.split('\n')) {
    const folded = FRAME.test(line) && (FOREIGN.test(line) || (folder !== '' && line.includes(folder)))
    const last = parts.at(-1)
    if (last?.folded === folded) last.lines.push(line)
    else parts.push({ folded, lines: [line] })
  }
  return parts
}
