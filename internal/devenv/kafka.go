package devenv

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// KafkaOptions says how to start Kafka. The zero value is a good one.
type KafkaOptions struct {
	// Properties go to server.properties, over the ones that one node needs.
	Properties map[string]string
	// Advertised is the address, host:port, that the broker tells its clients
	// to connect to, such as a proxy's. Empty is its own.
	Advertised string
	// Listeners are further ones, from names in capitals to their security
	// protocols, such as SASL_SSL. What else they need, such as certificates,
	// goes to Properties as listener.name.NAME.…, the name in small letters.
	Listeners map[string]string
	// Flags go to the JVM, such as -Dname=value.
	Flags []string
}

// Kafka is one real broker, in KRaft mode, that is its own controller. Its
// methods may be called from several goroutines at once.
type Kafka struct {
	KafkaNode
	listeners map[string]string // addresses
}

// KafkaNode is one broker. Its methods may be called from several goroutines at
// once.
type KafkaNode struct {
	server
	address    string
	advertised string // what it tells clients, where that is another address
}

// clusterID is the same for all clusters: 16 bytes, base64. None sees another.
const clusterID = "b3V0Ym94ZC10ZXN0aW5nMQ"

// StartKafka starts a broker and returns when it answers, in 3 to 8 seconds. It
// needs a Java runtime of version 17 or later and, the first time on a machine,
// Maven. Close it when done.
func StartKafka(ctx context.Context, o KafkaOptions) (*Kafka, error) {
	java, err := findKafka(ctx)
	if err != nil {
		return nil, err
	}
	box, err := newSandbox("kafka", "TERM")
	if err != nil {
		return nil, err
	}
	k, err := newKafka(ctx, box, java, o)
	if err == nil {
		err = k.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, box.close())
	}
	return k, nil
}

func newKafka(ctx context.Context, box *sandbox, java jvm, o KafkaOptions) (*Kafka, error) {
	ports, err := freePorts(2 + len(o.Listeners)) // broker, controller
	if err != nil {
		return nil, err
	}
	k := &Kafka{KafkaNode: KafkaNode{address: loopback(ports[0]), advertised: o.Advertised}, listeners: make(map[string]string)}
	p := kafkaProperties(filepath.Join(box.dir, "data"), k.address, loopback(ports[1]), o.Properties)
	further, protocols := "", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
	for i, name := range slices.Sorted(maps.Keys(o.Listeners)) {
		k.listeners[name] = loopback(ports[2+i])
		further += "," + name + "://" + k.listeners[name]
		protocols += "," + name + ":" + o.Listeners[name]
	}
	p["listeners"] += further
	p["listener.security.protocol.map"] = protocols
	if o.Advertised != "" {
		p["advertised.listeners"] = "PLAINTEXT://" + o.Advertised + further
	}
	if err := k.prepare(ctx, box, java, "kafka", p, append([]string{"-Xmx512m"}, o.Flags...)...); err != nil {
		return nil, err
	}
	return k, nil
}

// Brokers returns the addresses to connect to. They stay the same across
// restarts.
func (k *Kafka) Brokers() []string { return []string{k.address} }

// Listener returns the address of one of KafkaOptions.Listeners. It stays the
// same across restarts.
func (k *Kafka) Listener(name string) string { return k.listeners[name] }

// Close stops the broker and removes all its files. It may be called more than
// once; the broker cannot be started again.
func (k *Kafka) Close() error { return k.box.close() }

// jvm is a Java runtime and Kafka's classes.
type jvm struct{ java, jars string }

func findKafka(ctx context.Context) (jvm, error) {
	java, err := lookPath("java")
	if err != nil {
		return jvm{}, err
	}
	jars, err := kafkaJars(ctx)
	return jvm{java, jars}, err
}

// run is the command that runs a class of Kafka with arguments.
func (j jvm) run(box *sandbox, name string, args ...string) command {
	return command{
		name: name,
		// Without these two a JVM writes to /tmp, and leaves it there when it is killed.
		args: append([]string{j.java, "-XX:-UsePerfData", "-Djava.io.tmpdir=" + box.dir, "-cp", filepath.Join(j.jars, "*")}, args...),
		env:  box.env("LC_ALL=C.UTF-8"),
	}
}

// prepare writes the node's properties and formats its storage, after which it
// can be started, with the flags for its JVM.
func (k *KafkaNode) prepare(ctx context.Context, box *sandbox, java jvm, name string, properties map[string]string, flags ...string) error {
	file := filepath.Join(box.dir, name+".properties")
	if err := writeProperties(file, properties); err != nil {
		return err
	}
	tool := java.run(box, name+"-format", "-Xmx128m", "-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", file)
	if err := box.run(ctx, tool); err != nil {
		return fmt.Errorf("format the storage of Kafka: %w", err)
	}
	k.server = server{
		box:   box,
		cmd:   java.run(box, name, append(flags, "-Dorg.slf4j.simpleLogger.showDateTime=true", "kafka.Kafka", file)...),
		ready: k.answers,
	}
	return nil
}

// kafkaProperties are the settings of a node that is alone: no replication, no
// waiting for others, and no retention, by which records with an old create
// time would vanish. A killed broker is let in again when its old session is
// over, so the session is shorter than the usual 9 seconds.
func kafkaProperties(data, broker, controller string, extra map[string]string) map[string]string {
	p := map[string]string{
		"process.roles":                                    "broker,controller",
		"node.id":                                          "1",
		"controller.quorum.voters":                         "1@" + controller,
		"listeners":                                        "PLAINTEXT://" + broker + ",CONTROLLER://" + controller,
		"controller.listener.names":                        "CONTROLLER",
		"log.dirs":                                         data,
		"log.retention.ms":                                 "-1",
		"broker.session.timeout.ms":                        "4000",
		"broker.heartbeat.interval.ms":                     "500",
		"group.initial.rebalance.delay.ms":                 "0",
		"offsets.topic.replication.factor":                 "1",
		"offsets.topic.num.partitions":                     "1",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"transaction.state.log.num.partitions":             "1",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
		"share.coordinator.state.topic.num.partitions":     "1",
	}
	maps.Copy(p, extra)
	return p
}

func writeProperties(file string, properties map[string]string) error {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		fmt.Fprintf(&b, "%s=%s\n", name, strings.ReplaceAll(properties[name], "\n", `\n`)) // PEM has lines
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("configure Kafka: %w", err)
	}
	return nil
}

// answers asks the broker for the brokers of its cluster: it is among them when
// the controller has let it in, which is later than its port is open.
func (k *KafkaNode) answers(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", k.address)
	if err != nil {
		return err // at once, where the client below would try for long
	}
	if err := conn.Close(); err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(k.address))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	brokers, err := kadm.NewClient(client).ListBrokers(ctx)
	if err != nil {
		return err
	}
	for _, b := range brokers {
		if cmp.Or(k.advertised, k.address) == net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))) {
			return nil
		}
	}
	return errors.New("the controller has not let the broker in")
}

// Address is where the broker listens, host:port. It stays the same across
// restarts.
func (k *KafkaNode) Address() string { return k.address }

// Stop ends the broker in order, with SIGTERM, and waits for its end: about two
// seconds. A stopped broker is no error.
func (k *KafkaNode) Stop(ctx context.Context) error {
	return k.stop(ctx, syscall.SIGTERM)
}
