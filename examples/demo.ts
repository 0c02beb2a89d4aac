import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from './send-notification'

const LATENCY = 500

async function main (): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'background-tasks-demo-'))
  const logFile = join(folder, 'log.txt')
  const app = await build({ logFile, latency: LATENCY })
  try {
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    console.log(`The server listens on ${url}. Each line of log.txt takes ${LATENCY} ms to be written.`)
    await show('/send-notification/ada@example.com', url)
    await show('/send-notification-with-query/grace@example.com?q=compilers', url)
  } finally {
    await app.close()
    await rm(folder, { recursive: true })
  }

  async function show (path: string, url: string): Promise<void> {
    await writeFile(logFile, '')
    console.log(`\nPOST ${path}`)
    const start = performance.now()
    const print = (text: string) => console.log(`${Math.round(performance.now() - start).toString().padStart(6)} ms  ${text}`)

    const response = await fetch(url + path, { method: 'POST' })
    const body = await response.text()
    print(`the response: ${response.status} ${body}`)
    const { collecting, pending, running } = app.backgroundTasks.stats()
    print(`tasks still to end: ${collecting + pending + running}; log.txt: ${await readFile(logFile, 'utf8') || '(empty)'}`)
    await app.backgroundTasks.idle()
    print(`tasks ended; log.txt:\n${(await readFile(logFile, 'utf8')).replace(/^(?=.)/gm, '           ').trimEnd()}`)
  }
}

main()
