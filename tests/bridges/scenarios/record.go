package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// waitTimeout is how long a scenario waits for one thing. The server that pauses between attempts to reach a bridge, and
// a busy machine, need some of it.
const waitTimeout = 60 * time.Second

// record keeps the things that arrive somewhere, in their order, and lets scenarios wait for them.
type record[T any] struct {
	mutex   sync.Mutex
	items   []T
	changed chan struct{}
}

func newRecord[T any]() *record[T] {
	return &record[T]{changed: make(chan struct{})}
}

func (r *record[T]) add(item T) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.items = append(r.items, item)
	close(r.changed)
	r.changed = make(chan struct{})
}

// wait returns the first item that matches, as soon as there is one.
func (r *record[T]) wait(ctx context.Context, what string, matches func(T) bool) (T, error) {
	return r.waitAtMost(ctx, waitTimeout, what, matches)
}

func (r *record[T]) waitAtMost(
	ctx context.Context, timeout time.Duration, what string, matches func(T) bool,
) (found T, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		matching, changed := r.matching(matches)
		if len(matching) > 0 {
			return matching[0], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return found, fmt.Errorf("%s: did not arrive within %s", what, timeout)
		}
	}
}

// matching returns all items that match, and a channel that is closed when the next item arrives.
func (r *record[T]) matching(matches func(T) bool) ([]T, <-chan struct{}) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	var matching []T
	for _, item := range r.items {
		if matches(item) {
			matching = append(matching, item)
		}
	}
	return matching, r.changed
}

func (r *record[T]) count(matches func(T) bool) int {
	matching, _ := r.matching(matches)
	return len(matching)
}

// repeatUntil repeats an action until it succeeds or the time is over, for changes that nothing reports.
func repeatUntil(ctx context.Context, timeout time.Duration, what string, action func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := action(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, timeout, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
