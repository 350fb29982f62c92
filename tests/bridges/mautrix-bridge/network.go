package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// delivery is something that happened in a Matrix room, which the bridge reports to the network.
type delivery struct {
	Kind      string `json:"kind"`
	Channel   string `json:"channel"`
	Sender    string `json:"sender"`
	Text      string `json:"text"`
	Encrypted bool   `json:"encrypted"`
}

// post is something that happened in a channel of the network, which the bridge sends into a Matrix room.
type post struct {
	Number    int    `json:"number"`
	Kind      string `json:"kind"`
	Channel   string `json:"channel"`
	Author    string `json:"author"`
	Text      string `json:"text"`
	Timestamp int64  `json:"timestamp"`
}

// network is the bridge's connection to the remote network.
type network struct {
	url string
}

func (n network) deliver(ctx context.Context, d delivery) error {
	return n.request(ctx, http.MethodPost, "/deliveries", d, nil)
}

// nextPost waits for the first post that was not removed yet.
func (n network) nextPost(ctx context.Context) (next post, err error) {
	err = n.request(ctx, http.MethodGet, "/posts/next", nil, &next)
	return next, err
}

func (n network) removePost(ctx context.Context, number int) error {
	return n.request(ctx, http.MethodDelete, fmt.Sprintf("/posts/%d", number), nil, nil)
}

func (n network) request(ctx context.Context, method, path string, body, response any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, n.url+path, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the network answered %s", answer.Status)
	}
	if response == nil {
		return nil
	}
	return json.NewDecoder(answer.Body).Decode(response)
}
