import Glibc

let wouldBlock = EAGAIN
let connectionReset = ECONNRESET
let brokenPipe = EPIPE
