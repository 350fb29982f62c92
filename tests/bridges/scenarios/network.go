package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// delivery is something that happened in a Matrix room, which a bridge reported to the network.
type delivery struct {
	Kind      string `json:"kind"`
	Channel   string `json:"channel"`
	Sender    string `json:"sender"`
	Text      string `json:"text"`
	Encrypted bool   `json:"encrypted"`
}

// post is something that happened in a channel of the network, which a bridge has to send into a Matrix room.
type post struct {
	Number    int    `json:"number"`
	Kind      string `json:"kind"`
	Channel   string `json:"channel"`
	Author    string `json:"author"`
	Text      string `json:"text"`
	Timestamp int64  `json:"timestamp"`
}

// network is the remote network of a bridge. It keeps each post until the bridge removes it, so a bridge that was down
// finds the posts that it missed.
type network struct {
	url        string
	deliveries *record[delivery]

	server  *http.Server
	mutex   sync.Mutex
	posts   []post
	number  int
	changed chan struct{}
}

func startNetwork(address string) (*network, error) {
	listener, err := net.Listen("tcp", address+":0")
	if err != nil {
		return nil, err
	}
	n := &network{
		url:        "http://" + listener.Addr().String(),
		deliveries: newRecord[delivery](),
		changed:    make(chan struct{}),
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /deliveries", n.receiveDelivery)
	routes.HandleFunc("GET /posts/next", n.serveNextPost)
	routes.HandleFunc("DELETE /posts/{number}", n.removePost)
	n.server = &http.Server{Handler: routes}
	go n.server.Serve(listener)
	return n, nil
}

func (n *network) stop() {
	n.server.Close()
}

// publish makes a post for the bridge to send.
func (n *network) publish(p post) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.number++
	p.Number = n.number
	n.posts = append(n.posts, p)
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *network) publishMessage(channel, author, text string) {
	n.publish(post{Kind: "message", Channel: channel, Author: author, Text: text})
}

// waitForMessage waits until the bridge has delivered a message with a text.
func (n *network) waitForMessage(ctx context.Context, text string) (delivery, error) {
	return n.deliveries.wait(ctx, fmt.Sprintf("the message %q at the network", text), isDeliveryOf(text))
}

func isDeliveryOf(text string) func(delivery) bool {
	return func(d delivery) bool { return d.Kind == "message" && d.Text == text }
}

func (n *network) receiveDelivery(response http.ResponseWriter, request *http.Request) {
	var d delivery
	if err := json.NewDecoder(request.Body).Decode(&d); err != nil {
		http.Error(response, err.Error(), http.StatusBadRequest)
		return
	}
	n.deliveries.add(d)
}

func (n *network) serveNextPost(response http.ResponseWriter, request *http.Request) {
	for {
		n.mutex.Lock()
		posts, changed := n.posts, n.changed
		n.mutex.Unlock()
		if len(posts) > 0 {
			_ = json.NewEncoder(response).Encode(posts[0])
			return
		}
		select {
		case <-changed:
		case <-request.Context().Done():
			return
		}
	}
}

func (n *network) removePost(response http.ResponseWriter, request *http.Request) {
	number, err := strconv.Atoi(request.PathValue("number"))
	if err != nil {
		http.Error(response, err.Error(), http.StatusBadRequest)
		return
	}
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if len(n.posts) > 0 && n.posts[0].Number == number {
		n.posts = n.posts[1:]
	}
}
