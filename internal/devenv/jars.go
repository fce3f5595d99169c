package devenv

import (
	"context"
	_ "embed"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed pom.xml
var kafkaPOM []byte

// dependencyPlugin is the part of Maven that copies jars, pinned as they are.
const dependencyPlugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

// kafkaJars returns the directory with the jars that pom.xml names, fetched by
// Maven at first use. A changed pom.xml is another directory.
func kafkaJars(ctx context.Context) (string, error) {
	key := fmt.Sprintf("kafka-%08x", crc32.ChecksumIEEE(kafkaPOM))
	return cached(key, func(dir string) error {
		mvn, err := lookPath("mvn")
		if err != nil {
			return err
		}
		pom := filepath.Join(dir, "pom.xml")
		if err := os.WriteFile(pom, kafkaPOM, 0o644); err != nil {
			return fmt.Errorf("write pom.xml: %w", err)
		}
		return progress("fetch Kafka (36 jars, 36 MB) with Maven", func() error {
			cmd := exec.CommandContext(ctx, mvn, "--quiet", "--batch-mode", "--file", pom,
				dependencyPlugin, "-DoutputDirectory="+dir, "-DincludeScope=runtime")
			cmd.Env = append(os.Environ(), "MAVEN_OPTS=-XX:-UsePerfData "+os.Getenv("MAVEN_OPTS"))
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("fetch Kafka with Maven: %w: %s", err, strings.TrimSpace(string(out)))
			}
			return nil
		})
	})
}

// lookPath finds a program that the distribution has to provide.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s: it is not installed; `make services` installs it: %w", name, err)
	}
	return path, nil
}
