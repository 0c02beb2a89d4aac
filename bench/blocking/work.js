'use strict'

/* About 20 ms of work that holds its thread. This file is also the module of a task. */

module.exports = function work (n) {
  let found = 0
  for (let i = 2; found < n; i++) {
    let prime = true
    for (let j = 2; j * j <= i; j++) {
      if (i % j === 0) {
        prime = false
        break
      }
    }
    if (prime) found++
  }
  return found
}
