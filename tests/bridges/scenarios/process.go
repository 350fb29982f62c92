package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Everything has a loopback address of this network, with a port that is free.
const (
	serverAddress  = "127.52.200.1"
	bridgeAddress  = "127.52.200.2"
	networkAddress = "127.52.200.3"
)

// startTimeout is how long a process has to start or to stop.
const startTimeout = 90 * time.Second

// process is a program that can be started and stopped several times.
type process struct {
	name    string
	logPath string
	command []string

	running *exec.Cmd
	ended   chan struct{}
	// The lines that the program prints, besides those of its log on standard error.
	lines chan string
}

// start starts the program and returns without waiting until it is ready.
func (p *process) start() error {
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	command := exec.Command(p.command[0], p.command[1:]...)
	command.Stderr = log
	output, err := command.StdoutPipe()
	if err != nil {
		log.Close()
		return err
	}
	if err := command.Start(); err != nil {
		log.Close()
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended, lines := make(chan struct{}), make(chan string, 1000)
	go func() {
		defer log.Close()
		scanner := bufio.NewScanner(output)
		for scanner.Scan() {
			fmt.Fprintln(log, scanner.Text())
			select {
			case lines <- scanner.Text():
			default:
			}
		}
		_ = command.Wait()
		close(ended)
	}()
	p.running, p.ended, p.lines = command, ended, lines
	return nil
}

// waitForLine waits until the program prints a line.
func (p *process) waitForLine(ctx context.Context, line string) error {
	timeout := time.After(startTimeout)
	for {
		select {
		case printed := <-p.lines:
			if strings.TrimSpace(printed) == line {
				return nil
			}
		case <-p.ended:
			return fmt.Errorf("%s ended before it was ready; see %s", p.name, p.logPath)
		case <-timeout:
			return fmt.Errorf("%s is not ready; see %s", p.name, p.logPath)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *process) isRunning() bool {
	if p.running == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop ends the program in order.
func (p *process) stop() error {
	if !p.isRunning() {
		return nil
	}
	if err := p.running.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(startTimeout):
		_ = p.running.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not stop; see %s", p.name, p.logPath)
	}
}

// kill ends the program as a crash would.
func (p *process) kill() error {
	if err := p.running.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	return nil
}

// freePort returns an address with a port that nothing uses.
func freePort(address string) (string, error) {
	listener, err := net.Listen("tcp", address+":0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
