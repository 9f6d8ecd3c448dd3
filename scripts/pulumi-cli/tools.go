//go:build tools

// Package tools makes the CLI a dependency of this module, so that go.mod and go.sum pin all of its source.
package tools

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
