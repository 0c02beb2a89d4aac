import { execFile } from 'node:child_process'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { test } from 'tap'

const root = resolve(__dirname, '../..')

test('npm run demo shows each response before what its tasks write, and ends', async t => {
  // Rejects if the exit code is not 0.
  const { stdout } = await promisify(execFile)('npm', ['run', '--silent', 'demo'], { cwd: root })

  t.equal(stdout.replace(/127\.0\.0\.1:\d+/, '127.0.0.1:PORT').replace(/^ *\d+ ms/gm, 'TIME'), `\
The server listens on http://127.0.0.1:PORT. Each line of log.txt takes 500 ms to be written.

POST /send-notification/ada@example.com
TIME  the response: 200 {"message":"Notification sent in the background"}
TIME  tasks still to end: 1; log.txt: (empty)
TIME  tasks ended; log.txt:
           notification for ada@example.com: some notification

POST /send-notification-with-query/grace@example.com?q=compilers
TIME  the response: 200 {"message":"Message sent"}
TIME  tasks still to end: 2; log.txt: (empty)
TIME  tasks ended; log.txt:
           found query: compilers
           message to grace@example.com
`)

  const times = [...stdout.matchAll(/^ *(\d+) ms/gm)].map(match => Number(match[1]))
  for (const [response, unfinished, ended] of [times.slice(0, 3), times.slice(3)] as Array<[number, number, number]>) {
    t.ok(response <= unfinished && unfinished < ended, `${response} ms, ${unfinished} ms, ${ended} ms`)
  }
})
