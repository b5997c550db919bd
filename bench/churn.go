// The same as churn.c, in Go: a line of DIR/cmd asks, a line in DIR/answer answers.
//
//	churn DIR MIB
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	threads  = 2
	objects  = 256 // of a session
	atATime  = 4   // sessions that are allocated side by side
	smallest = 64
	largest  = 65536
)

type object struct {
	words []uint64
	id    uint64
}

type session struct {
	object [objects]object
}

type worker struct {
	random, nextID, wrong, live, allocated, verified uint64
	session                                          []*session
}

var share uint64 // of a worker, in bytes

func (w *worker) pick(below uint64) uint64 {
	w.random ^= w.random << 13
	w.random ^= w.random >> 7
	w.random ^= w.random << 17
	return w.random % below
}

func wordOf(id, n uint64) uint64 {
	return (id<<20 | n<<1 | 1) * 0x9e3779b97f4a7c15
}

func (w *worker) makeObject(o *object) {
	size := smallest * math.Pow(float64(largest)/smallest, float64(w.pick(1<<20))/(1<<20))
	o.words = make([]uint64, uint64(size)/8)
	o.id = w.nextID
	w.nextID++
	for n := range o.words {
		if o.words[n] != 0 {
			// The runtime believes that it is zero, as it was never used or is given back
			fmt.Fprintf(os.Stderr, "churn: WRONG: new object %#x at %p: word %d is %#x, not 0\n", o.id, &o.words[0], n, o.words[n])
			w.wrong++
		}
		o.words[n] = wordOf(o.id, uint64(n))
	}
	w.live += uint64(len(o.words)) * 8
	w.allocated += uint64(len(o.words)) * 8
}

func complain(o *object, n int) {
	word := unsafe.Pointer(&o.words[n])
	page := (*[512]uint64)(unsafe.Add(word, -int(uintptr(word)&4095)))
	zeros := 0
	for _, w := range page {
		if w == 0 {
			zeros++
		}
	}
	fmt.Fprintf(os.Stderr, "churn: WRONG: object %#x at %p, %d words: word %d is %#x, not %#x; %d words of its page are 0\n",
		o.id, &o.words[0], len(o.words), n, o.words[n], wordOf(o.id, uint64(n)), zeros)
}

func (w *worker) lookAt(o *object, silent bool) {
	for n := range o.words {
		if o.words[n] != wordOf(o.id, uint64(n)) {
			w.wrong++
			if w.wrong < 10 && !silent {
				complain(o, n)
			}
			break
		}
	}
	w.verified += uint64(len(o.words)) * 8
}

func (w *worker) makeSessions() {
	var made [atATime]*session
	for i := range made {
		made[i] = new(session)
		w.session = append(w.session, made[i])
	}
	for n := 0; n < objects; n++ {
		for i := range made {
			w.makeObject(&made[i].object[n])
		}
	}
}

func (w *worker) endSession(nr uint64) {
	s := w.session[nr]
	last := len(w.session) - 1
	w.session[nr] = w.session[last]
	w.session[last] = nil
	w.session = w.session[:last]
	for n := range s.object {
		w.lookAt(&s.object[n], false)
		w.live -= uint64(len(s.object[n].words)) * 8
	}
}

func (w *worker) obey(command string) {
	switch command {
	case "grow":
		for w.live < share {
			w.makeSessions()
		}
	case "churn":
		for end := w.allocated + share; w.allocated < end; {
			for i := 0; i < atATime && len(w.session) > 0; i++ {
				w.endSession(w.pick(uint64(len(w.session))))
			}
			w.makeSessions()
		}
	case "shrink":
		for keep := len(w.session) / 10; len(w.session) > keep; {
			w.endSession(w.pick(uint64(len(w.session))))
		}
	case "prove":
		if len(w.session) == 0 {
			return
		}
		o := &w.session[0].object[objects-1]
		word := &o.words[len(o.words)-1]
		*word ^= 1
		w.lookAt(o, true)
		*word ^= 1
	case "check", "quit":
		for _, s := range w.session {
			for n := range s.object {
				w.lookAt(&s.object[n], false)
			}
		}
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "churn:", err)
		os.Exit(2)
	}
}

func cpuTime(u *syscall.Rusage) int64 {
	return (u.Utime.Nano() + u.Stime.Nano()) / 1000
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: churn DIR MIB")
		os.Exit(2)
	}
	mib, err := strconv.ParseUint(os.Args[2], 0, 32)
	must(err)
	share = mib << 20 / threads
	var workers [threads]worker
	for i := range workers {
		workers[i] = worker{random: 88172645463325252 + uint64(i), nextID: uint64(i+1) << 32}
	}
	// We are a writer, too: there is no end of file when the last one closes it
	asked, err := os.OpenFile(os.Args[1]+"/cmd", os.O_RDWR, 0)
	must(err)
	commands := bufio.NewReader(asked)
	for command := ""; command != "quit"; {
		line, err := commands.ReadString('\n')
		must(err)
		words := strings.Fields(line)
		command = words[0]
		answer, err := os.OpenFile(os.Args[1]+"/answer", os.O_WRONLY, 0)
		must(err)

		var before, after syscall.Rusage
		must(syscall.Getrusage(syscall.RUSAGE_SELF, &before))
		start := time.Now()
		if command == "idle" {
			seconds, err := strconv.Atoi(words[1])
			must(err)
			debug.FreeOSMemory()
			time.Sleep(time.Duration(seconds) * time.Second)
		}
		var all sync.WaitGroup
		for i := range workers {
			w := &workers[i]
			w.allocated, w.verified, w.wrong = 0, 0, 0
			all.Add(1)
			go func() {
				w.obey(command)
				all.Done()
			}()
		}
		all.Wait()
		ns := time.Since(start).Nanoseconds()
		must(syscall.Getrusage(syscall.RUSAGE_SELF, &after))
		var live, allocated, verified, wrong uint64
		for i := range workers {
			live += workers[i].live
			allocated += workers[i].allocated
			verified += workers[i].verified
			wrong += workers[i].wrong
		}
		fmt.Fprintf(answer, "ns=%d cpu_us=%d minflt=%d majflt=%d live=%d allocated=%d verified=%d wrong=%d\n",
			ns, cpuTime(&after)-cpuTime(&before), after.Minflt-before.Minflt, after.Majflt-before.Majflt,
			live, allocated, verified, wrong)
		answer.Close()
	}
}
