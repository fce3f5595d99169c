package kafka_test

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// TestNonsense gives one answer that fits no question. What is acked is stored
// all the same, and the next session gets on.
func TestNonsense(t *testing.T) {
	partition := func(code int16, number int32) kmsg.ProduceResponseTopicPartition {
		p := kmsg.NewProduceResponseTopicPartition()
		p.ErrorCode, p.Partition = code, number
		return p
	}
	// produced answers for partitions of the topic that was asked for.
	produced := func(partitions ...kmsg.ProduceResponseTopicPartition) func(kmsg.Request, kmsg.Response) {
		return func(req kmsg.Request, resp kmsg.Response) {
			asked := req.(*kmsg.ProduceRequest).Topics[0]
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID, topic.Partitions = asked.Topic, asked.TopicID, partitions
			resp.(*kmsg.ProduceResponse).Topics = append(resp.(*kmsg.ProduceResponse).Topics, topic)
		}
	}
	for _, f := range []struct {
		name   string
		key    kmsg.Key
		answer func(kmsg.Request, kmsg.Response)
	}{
		{"nothing produced", kmsg.Produce, func(kmsg.Request, kmsg.Response) {}},
		{"no partition produced", kmsg.Produce, produced()},
		{"another partition produced", kmsg.Produce, produced(partition(0, 77))},
		{"unknown code", kmsg.Produce, produced(partition(999, 0))},
		{"negative code", kmsg.Produce, produced(partition(-2, 0))},
		{"another topic produced", kmsg.Produce, func(_ kmsg.Request, resp kmsg.Response) {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID[0], topic.Partitions = "another", 7, []kmsg.ProduceResponseTopicPartition{partition(0, 0)}
			resp.(*kmsg.ProduceResponse).Topics = append(resp.(*kmsg.ProduceResponse).Topics, topic)
		}},
		{"no brokers", kmsg.Metadata, func(kmsg.Request, kmsg.Response) {}},
		{"no versions", kmsg.ApiVersions, func(kmsg.Request, kmsg.Response) {}},
		{"no producer", kmsg.InitProducerID, func(_ kmsg.Request, resp kmsg.Response) {
			resp.(*kmsg.InitProducerIDResponse).ProducerID = -1
			resp.(*kmsg.InitProducerIDResponse).ErrorCode = 999
		}},
		{"limit that is no number", kmsg.DescribeConfigs, func(req kmsg.Request, resp kmsg.Response) {
			asked := req.(*kmsg.DescribeConfigsRequest).Resources[0]
			resource, config := kmsg.NewDescribeConfigsResponseResource(), kmsg.NewDescribeConfigsResponseResourceConfig()
			config.Name, config.Value = "max.message.bytes", kmsg.StringPtr("-99999999999999999999")
			resource.ResourceType, resource.ResourceName = asked.ResourceType, asked.ResourceName
			resource.Configs = append(resource.Configs, config)
			resp.(*kmsg.DescribeConfigsResponse).Resources = append(resp.(*kmsg.DescribeConfigsResponse).Resources, resource)
		}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			cluster := fakeCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "events"))
			asked := make(chan struct{})
			cluster.ControlKey(int16(f.key), func(req kmsg.Request) (kmsg.Response, error, bool) {
				close(asked)
				resp := req.ResponseKind()
				f.answer(req, resp)
				return resp, nil, true
			})
			first := publishOne(t, kafka.Config{Brokers: cluster.ListenAddrs()})
			select {
			case <-asked:
			default:
				t.Fatal("nothing was asked")
			}
			if errors.As(first, new(*publisher.PoisonError)) {
				t.Errorf("the record is blamed: %v", first)
			}
			if err := publishOne(t, kafka.Config{Brokers: cluster.ListenAddrs()}); err != nil {
				t.Errorf("the next session: %v", err)
			}
			acked := 1
			if first == nil {
				acked = 2
			}
			if stored := read(t, cluster.ListenAddrs(), "events"); len(stored) < acked {
				t.Errorf("%d records are stored, %d are acked", len(stored), acked)
			}
		})
	}
}
